"""Overfitting over the steps and at the end, of the baseline and one setting of each method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from hiddenkey.lab.analyses.overfitting import ACCURACY, Quantity, Row, TaskWatch
from hiddenkey.lab.analyses.overfitting_ends import difference_plot
from hiddenkey.lab.evidence.axes import Arm
from hiddenkey.lab.evidence.cells import LOSS
from hiddenkey.lab.evidence.curves import Part
from hiddenkey.lab.evidence.findings import Curve
from hiddenkey.lab.present.canvas import (
    INK,
    LINES,
    Axes,
    Figure,
    Palette,
    Plot,
    Style,
    add_legend,
    legend_height,
    numbered_parts,
)
from hiddenkey.lab.present.words import number

_AXES: Final = {"ece": "calibration\nerror (ECE)", "confidence": "confidence"}
_PANEL_INCHES: Final = 1.45

_Curves = Mapping[tuple[Arm, str, Part], Curve]


def overfitting_plots(watches: Sequence[TaskWatch], baseline: str) -> Iterator[Plot]:
    """Yield figures for each task, each with up to five settings beside the baseline.

    Curves over the steps are drawn where runs were looked at more than once.
    """
    methods = dict.fromkeys(row.arm.method for watch in watches for row in watch.rows)
    palette = Palette(tuple(methods), baseline)
    for watch in watches:
        base, others = shown_rows(watch, baseline)
        if base is None:
            continue
        parts = numbered_parts(others, LINES - 1)
        if any(len(curve.points) > 1 for curve in watch.curves):
            for chunk, part in parts:
                yield _curve_plot(watch, [base.arm, *(row.arm for row in chunk)], palette, part)
        for chunk, part in parts:
            paired = [row for row in chunk if any(end.comparison for end in row.endings)]
            if paired:
                yield difference_plot(watch, paired, palette, part)


def shown_rows(watch: TaskWatch, baseline: str) -> tuple[Row | None, list[Row]]:
    """Choose what a figure shows: the baseline's arm that most are paired with, one arm a method.

    Of each method it is the arm with the fewest settings that are not the baseline's; of several,
    as of several rates, the one with the best main metric after the last step.
    """
    paired: dict[str, list[Row]] = defaultdict(list)
    for row in watch.rows:
        if row.against is not None:
            paired[row.against].append(row)
    bases = [row for row in watch.rows if row.arm.method == baseline]
    if not bases:
        return None, []
    base = max(bases, key=lambda row: len(paired[row.arm.label]))
    metric = watch.quantities.index(Quantity(watch.task.metric, "evaluation"))
    by_method: dict[str, list[Row]] = defaultdict(list)
    for row in paired[base.arm.label]:
        by_method[row.arm.method].append(row)

    def worth(row: Row) -> tuple[int, float]:
        found = row.endings[metric].description
        return -len(row.also_differs), -1.0 if found is None else found.mean

    return base, [max(rows, key=worth) for rows in by_method.values()]


def _curve_plot(watch: TaskWatch, arms: Sequence[Arm], palette: Palette, part: str) -> Plot:
    metric = watch.task.metric
    curves: _Curves = {
        (curve.arm, curve.name, curve.part): curve for curve in watch.curves if curve.arm in arms
    }
    styles = palette.styles((arm.label, arm.method) for arm in arms)
    panels: list[tuple[str, str, Part]] = [
        (f"{metric}\ngap", metric, "gap"),
        ("evaluation\nloss", LOSS, "evaluation"),
    ]
    panels += [
        (label, name, "evaluation")
        for name, label in _AXES.items()
        if Quantity(name, "evaluation") in watch.quantities
    ]

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(panels), 1, sharex=True)
        for axes, (label, name, which) in zip(grid, panels, strict=True):
            for arm in arms:
                style = styles[arm.label]
                if name == "confidence":
                    _faint(axes, curves.get((arm, ACCURACY, which)), style)
                _line(axes, curves.get((arm, name, which)), style, arm.label)
            axes.set(ylabel=label)
        grid[0].axhline(0, color=INK, linewidth=0.8)
        grid[-1].set(xlabel="step")
        figure.align_ylabels(grid)
        add_legend(figure, grid[0])

    return Plot(
        name="overfitting",
        kind="overfitting",
        budget="steps",
        task=watch.task.label,
        title=f"{watch.task.label}: overfitting over the steps{part}",
        caption=_caption(
            arms, panels, with_accuracy=any(name == ACCURACY for _, name, _ in curves)
        ),
        alt=_alt(arms, panels, curves),
        height=_PANEL_INCHES * len(panels) + 0.3 + legend_height([arm.label for arm in arms]),
        draw=draw,
    )


def _line(axes: Axes, curve: Curve | None, style: Style, label: str) -> None:
    if curve is None:
        return
    steps = [point.step for point in curve.points]
    means = [point.spread.mean for point in curve.points]
    reach = [point.spread.deviation or 0.0 for point in curve.points]
    axes.plot(
        steps, means, color=style.colour, linestyle=style.dash, marker=style.marker, label=label
    )
    lows = [mean - one for mean, one in zip(means, reach, strict=True)]
    highs = [mean + one for mean, one in zip(means, reach, strict=True)]
    axes.fill_between(steps, lows, highs, color=style.colour, alpha=0.1, linewidth=0)


def _faint(axes: Axes, curve: Curve | None, style: Style) -> None:
    if curve is None:
        return
    steps = [point.step for point in curve.points]
    means = [point.spread.mean for point in curve.points]
    axes.plot(steps, means, color=style.colour, linestyle=":", linewidth=1.2, alpha=0.75)


def _caption(
    arms: Sequence[Arm], panels: Sequence[tuple[str, str, Part]], *, with_accuracy: bool
) -> str:
    names = [name for _, name, _ in panels]
    caption = (
        f"{arms[0].model}, rank {arms[0].rank}. Means over seeds, without noise; bands of ± one"
        " standard deviation. The gap is the metric on training examples minus that on evaluation"
        " examples."
    )
    if "confidence" in names:
        caption += " Confidence is the mean of the largest probability."
    if "confidence" in names and with_accuracy:
        caption += (
            " The pale dotted lines beside it are the accuracy on the same examples; between the"
            " two lies overconfidence."
        )
    if len(arms) > 1:
        caption += (
            " Of each method the setting most like the baseline's; of several rates the one with"
            " the best metric after the last step, which is a choice made on the evaluation"
            " examples."
        )
    return caption


def _alt(arms: Sequence[Arm], panels: Sequence[tuple[str, str, Part]], curves: _Curves) -> str:
    parts = []
    for arm in arms:
        ends = [
            f"{label.replace(chr(10), ' ')} {number(curve.points[-1].spread.mean)}"
            for label, name, which in panels
            if (curve := curves.get((arm, name, which))) is not None
        ]
        parts.append(f"{arm.label} ends at {', '.join(ends)}")
    return f"Curves over the steps. {'; '.join(parts)}."
