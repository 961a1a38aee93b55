"""The overfitting monitor in words: grids, and what the differences come to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hiddenkey.lab.evidence.cells import Cell
from hiddenkey.lab.evidence.comparisons import PairedComparison
from hiddenkey.lab.evidence.inference import excludes
from hiddenkey.lab.present.entries import Entry, Grid, make_grid
from hiddenkey.lab.present.words import MISSING, interval, listing, number, probability, signed
from overfitting.watch import Row, TaskWatch

READING: Final = (
    "All values are those after the last step, without dropout. A generalisation gap is the value"
    " on a sample of the training examples minus that on the evaluation examples. As a run"
    " overfits, the metric's gap grows and the loss's becomes more negative. ece is the expected"
    " calibration error (15 bins), brier the squared distance of the probabilities to the label:"
    " both are better when smaller. confidence is the mean of the largest probability."
)


def watch_grid(watch: TaskWatch) -> Grid:
    """One row for each configuration: mean ± deviation, and its difference to the baseline."""
    rows = [[row.configuration.label, row.seeds, *map(_full, row.endings)] for row in watch.rows]
    return _grid(watch, rows, [_comparisons(watch), *watch.notes, *other_settings(watch.rows)])


def short_grid(watch: TaskWatch, baseline: str) -> Grid:
    """The same rows with one number a cell, and what they come to."""
    rows = [
        [
            row.configuration.label,
            row.seeds,
            *(short_entry(row, ending, baseline) for ending in row.endings),
        ]
        for row in watch.rows
    ]
    return _grid(watch, rows, [headline(watch), *watch.notes, *other_settings(watch.rows)])


def short_entry(row: Row, ending: Cell, baseline: str) -> Entry:
    """The difference to the baseline, with a star if it is shown; else the mean in brackets.

    The baseline's own mean is bare.
    """
    compared, found = ending.comparison, ending.description
    if compared is not None:
        star = "*" if is_shown(ending) else ""
        return Entry(signed(compared.difference) + star, compared.difference)
    if found is None:
        return Entry(MISSING, None)
    mean = number(found.mean)
    return Entry(mean if row.configuration.method == baseline else f"({mean})", found.mean)


def _grid(watch: TaskWatch, rows: Sequence[Sequence[Any]], notes: Sequence[str]) -> Grid:
    columns = ("configuration", "seeds", *(quantity.label for quantity in watch.quantities))
    title = f"{watch.task.label}: overfitting after the last step"
    return make_grid("overfitting", title, columns, rows, [note for note in notes if note])


def is_shown(ending: Cell) -> bool:
    """Whether the difference to the baseline is beyond chance, after Holm's correction."""
    found = ending.comparison
    return found is not None and excludes(found.interval)


def headline(watch: TaskWatch) -> str:
    """Which differences from the baseline are shown, as a sentence."""
    compared = [row for row in watch.rows if any(end.comparison for end in row.endings)]
    if not compared:
        return f"{watch.task.label}: nothing to compare with the baseline."
    parts = []
    for index, quantity in enumerate(watch.quantities):
        ends = {row.configuration.label: row.endings[index] for row in compared}
        shown = {
            label: found.difference
            for label, end in ends.items()
            if (found := end.comparison) is not None and is_shown(end)
        }
        for word, sign in (("lower", -1), ("higher", 1)):
            if labels := [label for label, found in shown.items() if sign * found > 0]:
                parts.append(f"{quantity.label} {word} with {listing(labels)}")
    if parts:
        return f"{watch.task.label}: {'; '.join(parts)}."
    weak = _too_few(watch)
    return f"{watch.task.label}: no difference from the baseline is shown.{' ' * bool(weak)}{weak}"


def _too_few(watch: TaskWatch) -> str:
    """Why the seeds are too few, where all comparisons are inconclusive."""
    found = _compared(watch)
    weak = [comparison.note for comparison in found if comparison.verdict == "inconclusive"]
    return min((note or "" for note in weak), key=len) if len(weak) == len(found) > 0 else ""


def _compared(watch: TaskWatch) -> list[PairedComparison]:
    return [end.comparison for row in watch.rows for end in row.endings if end.comparison]


def _full(ending: Cell) -> Entry:
    found = ending.description
    if found is None:
        return Entry(MISSING, None)
    shown = number(found.mean)
    if found.deviation is not None:
        shown += f" ± {number(found.deviation)}"
    compared = ending.comparison
    if compared is None:
        return Entry(shown, found.mean)
    bounds = interval(compared.low, compared.high, sign=True)
    details = (f"{signed(compared.difference)} {bounds}", f"p {probability(compared.p_adjusted)}")
    return Entry(shown, found.mean, strong=is_shown(ending), details=details)


def _comparisons(watch: TaskWatch) -> str:
    pairs = {comparison.count for comparison in _compared(watch)}
    if not pairs:
        return ""
    seeds = f"{min(pairs)}" if len(pairs) == 1 else f"{min(pairs)} to {max(pairs)}"
    return (
        f"Second lines: difference to the baseline, paired over {seeds} seeds, with its interval"
        " (Student's t). Third lines: p after Holm's correction over the configurations, as the"
        f" interval has it. Bold where the interval excludes 0."
    )


def other_settings(rows: Sequence[Row]) -> list[str]:
    """Name the options, beside those of the method, that differ from the baseline's."""
    found: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row.also_differs:
            found.setdefault(row.also_differs, []).append(row.configuration.label)
    return [
        f"Not as in the baseline, beside the method:"
        f" {listing([name.replace('_', ' ') for name in names])}, in {listing(labels)}."
        for names, labels in found.items()
    ]
