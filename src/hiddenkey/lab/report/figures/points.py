"""Points of every seed: values, and differences to the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hiddenkey.lab.evidence.findings import Cell
from hiddenkey.lab.present.canvas import INK, ROW, Figure, Palette, Plot, place
from hiddenkey.lab.present.drawing import IntervalRow, draw_intervals, labelled_rows
from hiddenkey.lab.present.words import interval, number, signed
from hiddenkey.lab.report.tables import Scope, TaskTable


def seed_plots(scope: Scope, table: TaskTable, palette: Palette) -> Iterator[Plot]:
    """Yield the figures of single seeds: values, and differences to the baseline."""
    cells = [cell for arm in scope.arms if (cell := table.find(arm, "last")) and cell.values]
    metric, baseline = table.task.metric, palette.baseline
    values, differences = _rows(cells, palette)
    if values:
        yield Plot(
            kind="seeds",
            budget=scope.budget,
            task=table.task.label,
            title=f"{place(scope.budget, table.task.label)}: {metric} of every seed",
            caption=(
                "After the last step. Small points: one run each; large point and line: mean and"
                " its 95 % interval (Student's t)."
            ),
            alt=_values_alt(metric, values),
            height=ROW * len(values) + 0.8,
            draw=lambda figure: _draw_rows(figure, values, metric),
        )
    if differences:
        title = f"{place(scope.budget, table.task.label)}: difference to {baseline}, seed by seed"
        label = f"difference in {metric}"
        yield Plot(
            kind="differences",
            budget=scope.budget,
            task=table.task.label,
            title=title,
            caption=(
                f"{metric} after the last step minus {baseline}'s of the same seed. Small points:"
                " one pair each; large point and line: mean and its interval (Student's t, after"
                " Holm's correction). Right of the zero line is better."
            ),
            alt=_differences_alt(metric, baseline, differences),
            height=ROW * len(differences) + 0.8,
            draw=lambda figure: _draw_rows(figure, differences, label, zero=True),
        )


def _rows(cells: Sequence[Cell], palette: Palette) -> tuple[list[IntervalRow], list[IntervalRow]]:
    """Values, and differences to the baseline, of each configuration."""
    by_label = {cell.arm.label: dict(cell.values) for cell in cells}
    values, differences = [], []
    for cell in cells:
        label, look, own = cell.arm.label, palette.style(cell.arm.method), by_label[cell.arm.label]
        if (found := cell.description) is not None:
            shown = tuple(own.values())
            values.append(IntervalRow(label, look, found.mean, found.interval(), shown))
        if (compared := cell.comparison) is not None:
            base = by_label[cell.against or ""]
            shown = tuple(value - base[seed] for seed, value in own.items() if seed in base)
            mean, bounds = compared.difference, compared.interval
            differences.append(IntervalRow(label, look, mean, bounds, shown))
    return values, differences


def _draw_rows(
    figure: Figure, rows: Sequence[IntervalRow], xlabel: str, *, zero: bool = False
) -> None:
    axes = labelled_rows(figure, [row.label for row in rows])
    if zero:
        axes.axvline(0, color=INK, linewidth=1)
    draw_intervals(axes, rows, below=0.27)
    axes.set_xlabel(xlabel)


def _values_alt(metric: str, rows: Sequence[IntervalRow]) -> str:
    parts = [
        f"{row.label}: mean {number(row.mean)}, from {number(min(row.values))} to"
        f" {number(max(row.values))}"
        for row in rows
    ]
    return f"Points of {metric} by configuration. {'; '.join(parts)}."


def _differences_alt(metric: str, baseline: str, rows: Sequence[IntervalRow]) -> str:
    parts = [
        f"{row.label}: {signed(row.mean)} {interval(*(row.interval or (None, None)), sign=True)}"
        for row in rows
    ]
    return f"Differences in {metric} to {baseline}. {'; '.join(parts)}."
