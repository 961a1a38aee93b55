"""What the studies show: grids in a terminal, and pages in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

from hiddenkey.cli.terminal import grid_table, say
from hiddenkey.lab.present.canvas import Plot
from hiddenkey.lab.present.entries import Grid
from hiddenkey.lab.present.formats import escape_markdown, to_markdown
from hiddenkey.lab.present.markup import Section


def show_grid(console: Console, grid: Grid) -> None:
    """Print a grid as a table with its notes, and an empty line after it."""
    console.print(grid_table(grid))
    for note in grid.notes:
        say(console, note)
    console.print()


def markdown_page(title: str, sections: Iterable[Section]) -> str:
    """Return a page in Markdown; its pictures are expected as SVG in the same folder."""
    blocks = [f"# {escape_markdown(title)}"]
    for section in sections:
        blocks += [escape_markdown(words) for words in section.words if words]
        blocks += [to_markdown(grid) for grid in section.grids]
        blocks += [markdown_picture(picture.plot, "svg") for picture in section.pictures]
    return "\n\n".join(block.strip() for block in blocks) + "\n"


def markdown_picture(plot: Plot, ending: str) -> str:
    """Return the Markdown of a picture file with that ending, and the picture's caption."""
    alt, caption = (escape_markdown(f"{plot.title}. {words}") for words in (plot.alt, plot.caption))
    return f"![{alt}]({plot.name}.{ending})\n\n*{caption}*"
