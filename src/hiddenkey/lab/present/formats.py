"""Grids as CSV, Markdown and LaTeX text, and pages as Markdown."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from hiddenkey.lab.present.entries import Entry, Grid

_LATEX: Final = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "\u2013": "--",
}
_FORMULA: Final = tuple("=+-@\t\n＝＋－＠")  # noqa: RUF001
"""What makes a spreadsheet run a cell of a CSV file."""
_MARKDOWN: Final = re.compile(r"([\\`*_\[\]<>|#~&])")


def to_csv(grid: Grid) -> str:
    """Return comma-separated values, numbers with all their digits and missing ones empty.

    A cell with a second line gets a second column, named after the first. Words that a spreadsheet
    would run get an apostrophe before them; numbers stay as they are.
    """
    detailed = [any(row[i].details for row in grid.rows) for i in range(len(grid.columns))]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = [
        [name, f"{name} (in words)"] if more else [name]
        for name, more in zip(grid.columns, detailed, strict=True)
    ]
    writer.writerow([_inert(name) for head in heads for name in head])
    for row in grid.rows:
        cells: list[object] = []
        for entry, more in zip(row, detailed, strict=True):
            cells.append("" if entry.value is None else entry.value)
            if more:
                cells.append("; ".join((entry.text, *entry.details)))
        writer.writerow(map(_inert, cells))
    return file.getvalue()


def _inert(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r", "\n")  # which the csv module leaves without quotes
    return f"'{text}" if text.startswith(_FORMULA) else text


def to_markdown(grid: Grid) -> str:
    """Return a Markdown table with its title and notes."""
    return f"### {escape_markdown(grid.title)}\n\n{markdown_table(grid)}"


def markdown_table(grid: Grid) -> str:
    """Return a Markdown table with its notes, without its title."""
    lines = [_row(map(escape_markdown, grid.columns))]
    lines.append(_row("---:" if number else "---" for number in grid.numeric))
    lines += [_row(map(_markdown_entry, row)) for row in grid.rows]
    for note in grid.notes:
        lines += ["", escape_markdown(note)]
    return "\n".join(lines) + "\n"


def escape_markdown(text: str) -> str:
    """Return words on one line that Markdown shows as they are."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def to_latex(grid: Grid) -> str:
    """Return a LaTeX table for the packages booktabs and graphicx."""
    columns = "".join("r" if number else "l" for number in grid.numeric)
    lines = [
        "% needs \\usepackage{booktabs} and \\usepackage{graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(' '.join([f'{grid.title}.', *grid.notes]))}}}",
        rf"\label{{tab:{grid.name.replace('_', '-')}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(_latex, grid.columns)) + r" \\",
        r"\midrule",
        *(" & ".join(map(_latex_entry, row)) + r" \\" for row in grid.rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


FORMATS: Final[Mapping[str, Callable[[Grid], str]]] = {
    "csv": to_csv,
    "md": to_markdown,
    "tex": to_latex,
}
"""What writes a grid, by the ending of the file."""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_entry(entry: Entry) -> str:
    shown = escape_markdown(entry.text)
    if entry.strong and shown:
        shown = f"**{shown}**"
    return "<br>".join((shown, *map(escape_markdown, entry.details)))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _latex_entry(entry: Entry) -> str:
    shown = _latex(entry.text)
    if entry.strong and shown:
        shown = rf"\textbf{{{shown}}}"
    if shown.startswith(("[", "*")):
        shown = f"{{}}{shown}"  # after a line's end these two are read as its arguments
    if not entry.details:
        return shown
    parts = " ".join(rf"\\ {{\scriptsize {_latex(line)}}}" for line in entry.details)
    return rf"\begin{{tabular}}[t]{{@{{}}l@{{}}}}{shown} {parts}\end{{tabular}}"
