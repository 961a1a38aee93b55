"""Differences to the baseline after the last step: gap, loss, calibration error and confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hiddenkey.lab.analyses.overfitting import Quantity, Row, TaskWatch
from hiddenkey.lab.analyses.overfitting_tables import is_shown, other_settings
from hiddenkey.lab.evidence.cells import LOSS
from hiddenkey.lab.present.canvas import INK, Figure, Palette, Plot, Style
from hiddenkey.lab.present.drawing import IntervalRow, add_legend, draw_intervals, legend_height
from hiddenkey.lab.present.words import interval, signed

_COLUMNS: Final = 2
_ROW_INCHES: Final = 0.22


def difference_plot(watch: TaskWatch, rows: Sequence[Row], palette: Palette, part: str) -> Plot:
    """Return a figure with a panel for each quantity and a row for each configuration."""
    quantities = [
        quantity
        for quantity in (
            Quantity(watch.task.metric, "gap"),
            Quantity(LOSS, "evaluation"),
            Quantity("ece", "evaluation"),
            Quantity("confidence", "evaluation"),
        )
        if quantity in watch.quantities
    ]
    styles = palette.styles((row.arm.label, row.arm.method) for row in rows)
    lines = -(-len(quantities) // _COLUMNS)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(lines, _COLUMNS, sharey=True, squeeze=False).flat
        for axes, quantity in zip(panels, quantities, strict=True):
            index = watch.quantities.index(quantity)
            axes.axvline(0, color=INK, linewidth=1)
            draw_intervals(axes, [_interval(row, index, styles[row.arm.label]) for row in rows])
            axes.set_title(quantity.label)
            axes.set_yticks([])
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.locator_params(axis="x", nbins=3)
        add_legend(figure, panels[0])

    labels = [row.arm.label for row in rows]
    return Plot(
        name="overfitting_end",
        kind="overfitting",
        task=watch.task.label,
        title=f"{watch.task.label}: differences to {rows[0].against} after the last step{part}",
        caption=(
            f"Each configuration minus {rows[0].against}, paired by seed. Lines: the interval after"
            " Holm's correction (Student's t). Filled: it excludes 0. The generalisation gap is"
            " training minus evaluation examples: left of 0 is less overfitting. So it is for the"
            " loss and the calibration error (ece)."
            + "".join(f" {sentence}" for sentence in other_settings(rows))
        ),
        alt=_alt(watch, rows, quantities),
        height=lines * (0.75 + _ROW_INCHES * len(rows)) + legend_height(labels),
        draw=draw,
    )


def _interval(row: Row, index: int, style: Style) -> IntervalRow:
    cell = row.endings[index]
    found = cell.comparison
    if found is None:
        return IntervalRow(row.arm.label, style, None, None)
    return IntervalRow(
        row.arm.label, style, found.difference, found.interval, filled=is_shown(cell)
    )


def _alt(watch: TaskWatch, rows: Sequence[Row], quantities: Sequence[Quantity]) -> str:
    parts = []
    for row in rows:
        ends = zip(watch.quantities, row.endings, strict=True)
        values = [
            f"{quantity.label} {signed(end.comparison.difference)}"
            f" {interval(end.comparison.low, end.comparison.high, sign=True)}"
            for quantity, end in ends
            if quantity in quantities and end.comparison is not None
        ]
        parts.append(f"{row.arm.label}: {', '.join(values)}")
    return f"Differences to {rows[0].against}. {'; '.join(parts)}."
