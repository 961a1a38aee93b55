"""Overfitting over the steps and differences at the end, one configuration of each method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from hiddenkey.lab.evidence.axes import RunConfiguration
from hiddenkey.lab.evidence.cells import LOSS
from hiddenkey.lab.present.canvas import INK, LINES, Figure, Palette, Plot, Style
from hiddenkey.lab.present.curves import CurveFigure, Panel
from hiddenkey.lab.present.drawing import (
    IntervalRow,
    add_legend,
    draw_intervals,
    legend_height,
    numbered_parts,
)
from hiddenkey.lab.present.words import interval, signed
from overfitting.tables import is_shown, other_settings
from overfitting.watch import ACCURACY, Quantity, Row, TaskWatch


def overfitting_plots(watches: Sequence[TaskWatch], baseline: str) -> Iterator[Plot]:
    """Yield figures for each task, each with up to five configurations beside the baseline.

    Curves over the steps are drawn where runs were looked at more than once.
    """
    methods = dict.fromkeys(row.configuration.method for watch in watches for row in watch.rows)
    palette = Palette(tuple(methods), baseline)
    for watch in watches:
        base, others = shown_rows(watch, baseline)
        if base is None:
            continue
        parts = numbered_parts(others, LINES - 1)
        if any(len(curve.points) > 1 for curve in watch.curves):
            for chunk, part in parts:
                yield _curve_plot(
                    watch,
                    [base.configuration, *(row.configuration for row in chunk)],
                    palette,
                    part,
                )
        for chunk, part in parts:
            paired = [row for row in chunk if any(end.comparison for end in row.endings)]
            if paired:
                yield difference_plot(watch, paired, palette, part)


def shown_rows(watch: TaskWatch, baseline: str) -> tuple[Row | None, list[Row]]:
    """Choose what a figure shows: the baseline that most are paired with, then one per method.

    Of each method it is the configuration with the fewest options that are not the baseline's; of
    several, as of several rates, the one with the best main metric after the last step.
    """
    paired: dict[str, list[Row]] = defaultdict(list)
    for row in watch.rows:
        if row.against is not None:
            paired[row.against].append(row)
    bases = [row for row in watch.rows if row.configuration.method == baseline]
    if not bases:
        return None, []
    base = max(bases, key=lambda row: len(paired[row.configuration.label]))
    metric = watch.quantities.index(Quantity(watch.task.metric, "evaluation"))
    by_method: dict[str, list[Row]] = defaultdict(list)
    for row in paired[base.configuration.label]:
        by_method[row.configuration.method].append(row)

    def worth(row: Row) -> tuple[int, float]:
        found = row.endings[metric].description
        return -len(row.also_differs), -1.0 if found is None else found.mean

    return base, [max(rows, key=worth) for rows in by_method.values()]


def _curve_plot(
    watch: TaskWatch, configurations: Sequence[RunConfiguration], palette: Palette, part: str
) -> Plot:
    metric = watch.task.metric
    panels = [
        Panel(f"{metric}\ngap", metric, "gap", zero=True),
        Panel("evaluation\nloss", LOSS, "evaluation"),
        Panel("calibration\nerror (ECE)", "ece", "evaluation"),
        Panel("confidence", "confidence", "evaluation", (ACCURACY, "evaluation")),
    ]
    present = {(each.name, each.part) for each in watch.quantities}
    panels = [panel for panel in panels if (panel.name, panel.part) in present]
    curves = [curve for curve in watch.curves if curve.configuration in configurations]
    has_confidence = panels[-1].name == "confidence"
    shown = CurveFigure(
        configurations,
        panels,
        curves,
        palette.styles(
            (configuration.label, configuration.method) for configuration in configurations
        ),
        ACCURACY if has_confidence and any(c.name == ACCURACY for c in curves) else "",
    )
    return Plot(
        kind="overfitting",
        task=watch.task.label,
        title=f"{watch.task.label}: overfitting over the steps{part}",
        caption=_caption(configurations, confidence=has_confidence, accuracy=bool(shown.dotted)),
        alt=shown.alt,
        height=shown.height,
        draw=shown.draw,
    )


def _caption(
    configurations: Sequence[RunConfiguration], *, confidence: bool, accuracy: bool
) -> str:
    caption = (
        f"{configurations[0].model}, rank {configurations[0].rank}. Means over seeds, without"
        " dropout; bands of ± one standard deviation. The generalisation gap is the metric on"
        " training examples minus that on evaluation examples."
    )
    if confidence:
        caption += " Confidence is the mean of the largest probability."
    if accuracy:
        caption += (
            " The pale dotted lines beside it are the accuracy on the same examples; between the"
            " two lies overconfidence."
        )
    if len(configurations) > 1:
        caption += (
            " Of each method the configuration most like the baseline's. Of several rates the one"
            " with the best metric after the last step, which is a choice made on the evaluation"
            " examples."
        )
    return caption


_COLUMNS: Final = 2
_ROW_INCHES: Final = 0.22


def difference_plot(watch: TaskWatch, rows: Sequence[Row], palette: Palette, part: str) -> Plot:
    """Return a figure with a panel for each quantity and a row for each configuration."""
    evaluated = (Quantity(name, "evaluation") for name in (LOSS, "ece", "confidence"))
    wanted = (Quantity(watch.task.metric, "gap"), *evaluated)
    quantities = [quantity for quantity in wanted if quantity in watch.quantities]
    styles = palette.styles((row.configuration.label, row.configuration.method) for row in rows)
    lines = -(-len(quantities) // _COLUMNS)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(lines, _COLUMNS, sharey=True, squeeze=False).flat
        for axes, quantity in zip(panels, quantities, strict=True):
            index = watch.quantities.index(quantity)
            axes.axvline(0, color=INK, linewidth=1)
            draw_intervals(
                axes, [_interval(row, index, styles[row.configuration.label]) for row in rows]
            )
            axes.set_title(quantity.label)
            axes.set_yticks([])
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.locator_params(axis="x", nbins=3)
        add_legend(figure, panels[0])

    labels = [row.configuration.label for row in rows]
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
    label, found = row.configuration.label, cell.comparison
    if found is None:
        return IntervalRow(label, style, None, None)
    return IntervalRow(label, style, found.difference, found.interval, filled=is_shown(cell))


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
        parts.append(f"{row.configuration.label}: {', '.join(values)}")
    return f"Differences to {rows[0].against}. {'; '.join(parts)}."
