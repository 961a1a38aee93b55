"""The terminal: its width and its tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.table import Table

if TYPE_CHECKING:
    from hiddenkey.lab.present.entries import Grid

_WIDTH_OF_FILES: Final = 120
_HUGE: Final = 1e9


def standard_console() -> Console:
    """Return a console on standard output; into a file or pipe it writes wide lines."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_OF_FILES)


def plain_table(title: str, left: Iterable[str] = (), right: Iterable[str] = ()) -> Table:
    """Return a table without frame, narrow enough for a terminal of 80 columns.

    Args:
        title: stands above it.
        left: names of the first columns, of words.
        right: names of the columns after them, of numbers.
    """
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table


def grid_table(grid: Grid, *, details: bool = True) -> Table:
    """Return a report's grid as a table; its notes are left out, and small print on request."""
    table = plain_table(grid.title)
    for name, is_number in zip(grid.columns, grid.numeric, strict=True):
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in grid.rows:
        table.add_row(*("\n".join((e.text, *(e.details if details else ()))) for e in row))
    return table


def progress_bar(console: Console, time: ProgressColumn, *, transient: bool = False) -> Progress:
    """Return a bar that counts what is done; it shows on terminals only.

    Args:
        console: where to show it.
        time: the column at its end.
        transient: take it off when it is stopped.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), time)
    return Progress(*columns, console=console, transient=transient, disable=not console.is_terminal)


def print_json(value: Any, indent: int = 2) -> None:
    """Print plain values as JSON."""
    json.dump(value, sys.stdout, indent=indent)
    print()


def number(value: float | None) -> str:
    """Write a metric, or a hyphen where there is none; a huge one with an exponent."""
    return "-" if value is None else f"{value:.4f}" if abs(value) < _HUGE else f"{value:.4e}"


def say(console: Console, text: str) -> None:
    """Print one line as it is, however long."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
