"""Lines of training and evaluation over the steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from hiddenkey.lab.evidence.axes import Arm
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
    in_parts,
    legend_height,
    place,
)
from hiddenkey.lab.present.words import number
from hiddenkey.lab.report.tables import Scope, TaskTable

_Key = tuple[Arm, bool, str]


def curve_plots(scope: Scope, table: TaskTable, palette: Palette) -> Iterator[Plot]:
    """Yield figures of metric, gap and loss over the steps, one arm for each method."""
    for arms, rest in _curve_groups(scope, table, palette.baseline):
        curves: dict[_Key, Curve] = {
            (curve.arm, curve.name == "loss", curve.part): curve
            for curve in table.curves
            if curve.arm in arms
        }
        if curves:
            yield _curve_plot(scope, table, palette, arms, curves, rest)


def _curve_groups(
    scope: Scope, table: TaskTable, baseline: str
) -> list[tuple[list[Arm], tuple[int, int, bool]]]:
    """For each model the rank with most curves; then up to six arms, the baseline always first."""
    known = {curve.arm for curve in table.curves}
    chosen = {selection.chosen for selection in table.selections} or known
    groups = []
    for model in dict.fromkeys(arm.model for arm in scope.arms):
        arms = [arm for arm in scope.arms if arm in known & chosen and arm.model == model]
        if not arms:
            continue
        counts = Counter(arm.rank for arm in arms)
        rank = max(counts, key=lambda rank: (counts[rank], rank))
        of_rank = [arm for arm in arms if arm.rank == rank]
        base = [arm for arm in of_rank if arm.method == baseline]
        chunks = in_parts([arm for arm in of_rank if arm not in base], LINES - 1) or [[]]
        groups += [
            ([*base, *chunk], (index, len(chunks), len(counts) > 1))
            for index, chunk in enumerate(chunks)
        ]
    return groups


def _curve_plot(
    scope: Scope,
    table: TaskTable,
    palette: Palette,
    arms: Sequence[Arm],
    curves: Mapping[_Key, Curve],
    rest: tuple[int, int, bool],
) -> Plot:
    metric = table.task.metric
    chosen = palette.styles((arm.label, arm.method) for arm in arms)
    index, total, several_ranks = rest

    def draw(figure: Figure) -> None:
        top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 3))
        for arm in arms:
            style = chosen[arm.label]
            for axes, loss in ((top, False), (bottom, True)):
                _curve(axes, curves.get((arm, loss, "evaluation")), style, arm.label)
                _curve(axes, curves.get((arm, loss, "training")), style, None)
            _curve(middle, curves.get((arm, False, "gap")), style, None)
        top.plot([], [], color=INK, linestyle=":", linewidth=1.2, label="training examples")
        middle.axhline(0, color=INK, linewidth=0.8)
        top.set(ylabel=metric)
        middle.set(ylabel="gap")
        bottom.set(ylabel="loss", xlabel="step")
        add_legend(figure, top)

    suffix = f" ({index + 1} of {total})" if total > 1 else ""
    about = f"{arms[0].model}, rank {arms[0].rank}"
    caption = (
        f"{about}. Means over seeds, without noise. Full lines with bands of ± one standard"
        " deviation: evaluation examples; pale dotted lines: training examples; the gap is training"
        " minus evaluation."
    )
    if table.selections:
        caption += (
            " Of each method, the setting with the best mean after the last step, which is a choice"
            " made on the evaluation examples."
        )
    if several_ranks:
        caption += " The other ranks are in tables/curves.csv."
    return Plot(
        name="curves",
        kind="curves",
        budget=scope.budget,
        task=table.task.label,
        title=f"{place(scope.budget, table.task.label)}: {metric}, gap and loss{suffix}",
        caption=caption,
        alt=_curve_alt(metric, arms, curves),
        height=4.9 + legend_height([*(arm.label for arm in arms), "training examples"]),
        draw=draw,
    )


def _curve(axes: Axes, curve: Curve | None, style: Style, label: str | None) -> None:
    if curve is None:
        return
    steps = [point.step for point in curve.points]
    means = [point.spread.mean for point in curve.points]
    if curve.part == "training":
        axes.plot(steps, means, color=style.colour, linestyle=":", linewidth=1.2, alpha=0.75)
        return
    axes.plot(
        steps, means, color=style.colour, linestyle=style.dash, marker=style.marker, label=label
    )
    spread = [point.spread.deviation or 0.0 for point in curve.points]
    lows = [mean - reach for mean, reach in zip(means, spread, strict=True)]
    highs = [mean + reach for mean, reach in zip(means, spread, strict=True)]
    axes.fill_between(steps, lows, highs, color=style.colour, alpha=0.12, linewidth=0)


def _curve_alt(metric: str, arms: Sequence[Arm], curves: Mapping[_Key, Curve]) -> str:
    parts = []
    for arm in arms:
        ends = [
            f"{name} {number(curve.points[-1].spread.mean)}"
            for name, loss, part in (
                (metric, False, "evaluation"),
                ("gap", False, "gap"),
                ("loss", True, "evaluation"),
            )
            if (curve := curves.get((arm, loss, part))) is not None
        ]
        parts.append(f"{arm.label} ends at {', '.join(ends)}")
    return f"Curves over the steps. {'; '.join(parts)}."
