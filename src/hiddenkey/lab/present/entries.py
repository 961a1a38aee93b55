"""Cells and grids: the flat form of a table that CSV, Markdown, LaTeX and the page share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hiddenkey.lab.evidence.inference import Estimate
from hiddenkey.lab.present.words import MISSING, interval, number, signed

Value = str | int | float | None


@dataclass(frozen=True)
class Entry:
    """One cell of a grid.

    Attributes:
        text: as a reader sees it.
        value: as a program reads and a reader sorts it; ``None`` if there is none.
        strong: set in bold.
        details: further lines in small print.
        link: anchor on the page that it leads to; empty: none.
    """

    text: str
    value: Value
    strong: bool = False
    details: tuple[str, ...] = ()
    link: str = ""


@dataclass(frozen=True)
class Grid:
    """A table to print.

    Attributes:
        name: of its files.
        title: what it shows.
        notes: how to read it.
        columns: headings.
        numeric: for each column, whether it is aligned and sorted as numbers.
        rows: as long as ``columns``.
    """

    name: str
    title: str
    notes: tuple[str, ...]
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[Entry, ...], ...]


def make_grid(
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    notes: Sequence[str] = (),
) -> Grid:
    """Build a grid of entries, or of values as :func:`entry` takes them.

    A column is numeric if all that it holds are numbers.
    """
    cells = [[value if isinstance(value, Entry) else entry(value) for value in row] for row in rows]
    numeric = tuple(
        all(isinstance(row[index].value, int | float | None) for row in cells)
        and any(row[index].value is not None for row in cells)
        for index in range(len(columns))
    )
    return Grid(name, title, tuple(notes), tuple(columns), numeric, tuple(map(tuple, cells)))


def grid_of(
    name: str, title: str, rows: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()
) -> Grid:
    """Build a grid of rows that name their columns, all of them the same."""
    return make_grid(name, title, [*rows[0]] if rows else [], [[*r.values()] for r in rows], notes)


def entry(value: Any) -> Entry:
    """An entry of a value as it is: words, a number, a truth value, or what JSON writes."""
    if value is None:
        return Entry(MISSING, None)
    if isinstance(value, float):
        return Entry(number(value), value)
    plain = value if isinstance(value, str | int) and not isinstance(value, bool) else None
    plain = json.dumps(value, sort_keys=True) if plain is None else plain
    return Entry(str(plain), plain)


def difference(
    mean: float | None, bounds: tuple[float | None, float | None] | None, digits: int = 3
) -> Entry:
    """An entry of a mean difference, with its interval below where there is one."""
    below = interval(*(bounds or (None, None)), sign=True, digits=digits)
    return Entry(signed(mean, digits), mean, details=lines_of(below))


def numeric(value: float | None, shown: str | None = None) -> Entry:
    """An entry of one number."""
    return Entry(number(value) if shown is None else shown, value)


def spread(found: Estimate | None) -> Entry:
    """An entry of mean ± standard deviation, with the interval below where there is one."""
    if found is None:
        return Entry(MISSING, None)
    shown = number(found.mean)
    if found.deviation is not None:
        shown += f" ± {number(found.deviation)}"
    return Entry(shown, found.mean, details=lines_of(interval(found.low, found.high)))


def lines_of(*lines: str) -> tuple[str, ...]:
    """Keep the lines that say something."""
    return tuple(line for line in lines if line)
