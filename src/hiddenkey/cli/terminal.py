"""The terminal: its width and its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from hiddenkey.lab.present.entries import Grid

_WIDTH_OF_FILES: Final = 120


def standard_console() -> Console:
    """Return a console on standard output; into a file or pipe it writes wide lines."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_OF_FILES)


def plain_table(title: str) -> Table:
    """Return a table without frame, narrow enough for a terminal of 80 columns."""
    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )


def grid_table(grid: Grid, *, details: bool = True) -> Table:
    """Return a report's grid as a table; its notes are left out, and small print on request."""
    table = plain_table(grid.title)
    for name, is_number in zip(grid.columns, grid.numeric, strict=True):
        table.add_column(name, justify="right" if is_number else "left")
    for row in grid.rows:
        table.add_row(*("\n".join((e.text, *(e.details if details else ()))) for e in row))
    return table


def say(console: Console, text: str) -> None:
    """Print one line as it is, however long."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
