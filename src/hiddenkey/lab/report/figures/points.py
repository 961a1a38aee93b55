"""Points of every seed: values, and differences to the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hiddenkey.lab.evidence.findings import Cell
from hiddenkey.lab.present.canvas import (
    INK,
    ROW,
    Figure,
    Palette,
    Plot,
    Style,
    labelled_rows,
    place,
)
from hiddenkey.lab.present.words import interval, number, signed
from hiddenkey.lab.report.tables import Scope, TaskTable


def seed_plots(scope: Scope, table: TaskTable, palette: Palette) -> Iterator[Plot]:
    """Yield the figures of single seeds: values, and differences to the baseline."""
    cells = [cell for arm in scope.arms if (cell := table.find(arm, "last")) and cell.values]
    if not cells:
        return
    metric, baseline = table.task.metric, palette.baseline
    values = [_value_row(cell, palette.style(cell.arm.method)) for cell in cells]
    yield Plot(
        name="seeds",
        kind="seeds",
        budget=scope.budget,
        task=table.task.label,
        title=f"{place(scope.budget, table.task.label)}: {metric} of every seed",
        caption=(
            "After the last step. Small points: one run each; large point and line: mean and its"
            " 95 % interval (Student's t)."
        ),
        alt=_values_alt(metric, cells),
        height=ROW * len(cells) + 0.8,
        draw=lambda figure: _draw_rows(figure, values, metric),
    )
    base = {cell.arm.label: dict(cell.values) for cell in cells}
    paired = [cell for cell in cells if cell.comparison is not None]
    if not paired:
        return
    differences = [
        _difference_row(cell, base[cell.against or ""], palette.style(cell.arm.method))
        for cell in paired
    ]
    yield Plot(
        name="differences",
        kind="differences",
        budget=scope.budget,
        task=table.task.label,
        title=f"{place(scope.budget, table.task.label)}: difference to {baseline}, seed by seed",
        caption=(
            f"{metric} after the last step minus {baseline}'s of the same seed. Small points: one"
            " pair each; large point and line: mean and its interval (Student's t, after"
            " Holm's correction). Right of the zero line is better."
        ),
        alt=_differences_alt(metric, baseline, paired),
        height=ROW * len(paired) + 0.8,
        draw=lambda figure: _draw_rows(figure, differences, f"difference in {metric}", zero=True),
    )


@dataclass(frozen=True)
class _Row:
    """What one row shows: its points, and mean with interval."""

    label: str
    style: Style
    values: Sequence[float]
    mean: float | None
    low: float | None
    high: float | None


def _value_row(cell: Cell, style: Style) -> _Row:
    found = cell.description
    values = [value for _, value in cell.values]
    if found is None:
        return _Row(cell.arm.label, style, values, None, None, None)
    return _Row(cell.arm.label, style, values, found.mean, found.low, found.high)


def _difference_row(cell: Cell, base: Mapping[int, float], style: Style) -> _Row:
    found = cell.comparison
    values = [value - base[seed] for seed, value in cell.values if seed in base]
    if found is None:
        return _Row(cell.arm.label, style, values, None, None, None)
    return _Row(cell.arm.label, style, values, found.difference, found.low, found.high)


def _draw_rows(figure: Figure, rows: Sequence[_Row], xlabel: str, *, zero: bool = False) -> None:
    """Draw rows; those of one style are one artist, since each artist takes its time."""
    axes = labelled_rows(figure, [row.label for row in rows])
    if zero:
        axes.axvline(0, color=INK, linewidth=1)
    for style in dict.fromkeys(row.style for row in rows):
        own = [(place, row) for place, row in enumerate(rows) if row.style == style]
        axes.plot(
            [value for _, row in own for value in row.values],
            [place + 0.02 for place, row in own for _ in row.values],
            linestyle="none",
            marker=style.marker,
            markersize=4,
            color=style.colour,
            alpha=0.75,
            markeredgewidth=0,
        )
        bounds = [
            (place, r.low, r.high) for place, r in own if r.low is not None and r.high is not None
        ]
        axes.hlines(
            [place + 0.27 for place, _, _ in bounds],
            [low for _, low, _ in bounds],
            [high for _, _, high in bounds],
            color=style.colour,
            linewidth=2,
        )
        means = [(place, row.mean) for place, row in own if row.mean is not None]
        axes.plot(
            [mean for _, mean in means],
            [place + 0.27 for place, _ in means],
            linestyle="none",
            marker=style.marker,
            markersize=7,
            color=style.colour,
        )
    axes.set_xlabel(xlabel)


def _values_alt(metric: str, cells: Sequence[Cell]) -> str:
    parts = [
        f"{cell.arm.label}: mean {number(cell.description.mean)}, from"
        f" {number(min(v for _, v in cell.values))} to {number(max(v for _, v in cell.values))}"
        for cell in cells
        if cell.description is not None
    ]
    return f"Points of {metric} by setting. {'; '.join(parts)}."


def _differences_alt(metric: str, baseline: str, cells: Sequence[Cell]) -> str:
    parts = [
        f"{cell.arm.label}: {signed(found.difference)} {interval(found.low, found.high, sign=True)}"
        for cell in cells
        if (found := cell.comparison) is not None
    ]
    return f"Differences in {metric} to {baseline}. {'; '.join(parts)}."
