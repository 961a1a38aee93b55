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
    if not cells:
        return
    metric, baseline = table.task.metric, palette.baseline
    values = [
        IntervalRow(
            cell.arm.label,
            palette.style(cell.arm.method),
            found.mean,
            found.interval(),
            tuple(value for _, value in cell.values),
        )
        for cell in cells
        if (found := cell.description) is not None
    ]
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
        IntervalRow(
            cell.arm.label,
            palette.style(cell.arm.method),
            compared.difference,
            compared.interval,
            tuple(v - others[s] for s, v in cell.values if s in others),
        )
        for cell in paired
        if (compared := cell.comparison) is not None
        and (others := base[cell.against or ""]) is not None
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


def _draw_rows(
    figure: Figure, rows: Sequence[IntervalRow], xlabel: str, *, zero: bool = False
) -> None:
    axes = labelled_rows(figure, [row.label for row in rows])
    if zero:
        axes.axvline(0, color=INK, linewidth=1)
    draw_intervals(axes, rows, below=0.27)
    axes.set_xlabel(xlabel)


def _values_alt(metric: str, cells: Sequence[Cell]) -> str:
    parts = [
        f"{cell.arm.label}: mean {number(cell.description.mean)}, from"
        f" {number(min(v for _, v in cell.values))} to {number(max(v for _, v in cell.values))}"
        for cell in cells
        if cell.description is not None
    ]
    return f"Points of {metric} by configuration. {'; '.join(parts)}."


def _differences_alt(metric: str, baseline: str, cells: Sequence[Cell]) -> str:
    parts = [
        f"{cell.arm.label}: {signed(found.difference)} {interval(found.low, found.high, sign=True)}"
        for cell in cells
        if (found := cell.comparison) is not None
    ]
    return f"Differences in {metric} to {baseline}. {'; '.join(parts)}."
