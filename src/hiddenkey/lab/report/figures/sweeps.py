"""Lines of the metric over an option, such as the dropout rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from hiddenkey.lab.evidence.findings import Series, Sweep, SweepPoint
from hiddenkey.lab.evidence.inference import Estimate
from hiddenkey.lab.present.canvas import LINES, Figure, Palette, Plot, place
from hiddenkey.lab.present.drawing import (
    add_legend,
    draw_level,
    draw_line,
    legend_height,
    numbered_parts,
)
from hiddenkey.lab.present.words import number
from hiddenkey.lab.report.tables import Scope, TaskTable

_KINDS: Final = {
    "rate": "dropout rate",
    "rank": "rank of LoRA",
    "consistency_weight": "weight of the consistency loss",
}


def sweep_plots(scope: Scope, table: TaskTable, palette: Palette) -> Iterator[Plot]:
    """Yield figures of the main metric over an option; lines of one figure differ in the method."""
    for sweep in table.sweeps:
        for group, suffix in _sweep_groups(sweep, palette.baseline):
            yield _sweep_plot(scope, table, palette, sweep.option, group, suffix)


def _sweep_groups(sweep: Sweep, baseline: str) -> list[tuple[list[Series], str]]:
    """Put lines that share all else together, up to six, and the baseline's lines before them."""
    own = [series for series in sweep.series if series.method != baseline]
    base = [*sweep.levels, *(series for series in sweep.series if series.method == baseline)]
    if not own:
        return [(base, "")]
    groups = []
    for others in dict.fromkeys(series.others for series in own):
        beside = [series for series in base if series.others <= others]
        alike = f" ({', '.join(sorted(others))})" if others else ""
        for chunk, part in numbered_parts([s for s in own if s.others == others], LINES):
            groups.append(([*beside, *chunk], f"{alike}{part}"))
    return groups


def _sweep_plot(
    scope: Scope,
    table: TaskTable,
    palette: Palette,
    name: str,
    group: Sequence[Series],
    suffix: str,
) -> Plot:
    option = _KINDS[name]
    metric = table.task.metric
    chosen = palette.styles((s.label, s.method) for s in group)
    lines = [series for series in group if series.points[0].x]
    levels = [series for series in group if series not in lines]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for series in levels:
            found = series.points[0].last
            if found is not None:
                style = chosen[series.label]
                draw_level(axes, found.mean, style, series.label, _bounds(found))
        for series in lines:
            known = [(point.x, point.last) for point in series.points if point.last is not None]
            draw_line(
                axes,
                [x for x, _ in known],
                [found.mean for _, found in known],
                chosen[series.label],
                series.label,
                [_bounds(found) for _, found in known],
            )
        axes.set(xlabel=option, ylabel=f"{metric} after the last step")
        if name == "rank":
            axes.set_xscale("log", base=2)
        ticks = sorted({point.x for series in lines for point in series.points})
        axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
        axes.minorticks_off()
        add_legend(figure, axes)

    return Plot(
        name=f"{name}{suffix}",
        kind=name,
        budget=scope.budget,
        task=table.task.label,
        title=f"{place(scope.budget, table.task.label)}: {metric} over {option}{suffix}",
        caption=(
            "Mean over seeds after the last step; bands: 95 % interval of the mean (t)."
            " Reading the best point off this picture is a choice made on the evaluation examples."
        ),
        alt=_sweep_alt(lines, levels, option, metric),
        height=2.7 + legend_height([series.label for series in group]),
        draw=draw,
    )


def _bounds(found: Estimate) -> tuple[float, float]:
    if found.low is None or found.high is None:
        return found.mean, found.mean
    return found.low, found.high


def _sweep_alt(lines: Sequence[Series], levels: Sequence[Series], option: str, metric: str) -> str:
    parts = [f"{series.label} without it: {_mean(series.points[0])}" for series in levels]
    for series in lines:
        points = ", ".join(f"{point.x:g}: {_mean(point)}" for point in series.points)
        parts.append(f"{series.label} at {points}")
    return f"Lines of {metric} over {option}. {'; '.join(parts)}."


def _mean(point: SweepPoint) -> str:
    return number(None if point.last is None else point.last.mean)
