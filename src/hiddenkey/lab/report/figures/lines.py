"""Lines over the steps of training, and over an option such as the dropout rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from hiddenkey.lab.evidence.axes import RunConfiguration
from hiddenkey.lab.evidence.cells import LOSS
from hiddenkey.lab.evidence.inference import Estimate
from hiddenkey.lab.evidence.sweeps import Series, Sweep, SweepPoint
from hiddenkey.lab.present.canvas import LINES, Figure, Palette, Plot
from hiddenkey.lab.present.curves import CurveFigure, Panel
from hiddenkey.lab.present.drawing import (
    add_legend,
    draw_level,
    draw_line,
    legend_height,
    numbered_parts,
)
from hiddenkey.lab.present.words import number
from hiddenkey.lab.report.tables import Scope, TaskTable


def curve_plots(scope: Scope, table: TaskTable, palette: Palette) -> Iterator[Plot]:
    """Yield figures of metric, gap and loss over the steps, one configuration for each method."""
    metric = table.task.metric
    panels = (
        Panel(metric, metric, "evaluation", (metric, "training"), inches=1.75),
        Panel("generalisation\ngap", metric, "gap", zero=True, inches=1.15),
        Panel("loss", LOSS, "evaluation", (LOSS, "training"), inches=1.75),
    )
    for configurations, part, several_ranks in _curve_groups(scope, table, palette.baseline):
        shown = CurveFigure(
            configurations,
            panels,
            [curve for curve in table.curves if curve.configuration in configurations],
            palette.styles(
                (configuration.label, configuration.method) for configuration in configurations
            ),
            "training examples",
        )
        if shown.curves:
            yield Plot(
                kind="curves",
                title=f"{metric}, generalisation gap and loss{part}",
                caption=_caption(table, configurations[0], several_ranks=several_ranks),
                alt=shown.alt,
                height=shown.height,
                draw=shown.draw,
            )


def _curve_groups(
    scope: Scope, table: TaskTable, baseline: str
) -> Iterator[tuple[list[RunConfiguration], str, bool]]:
    """For each model the rank with most curves; up to six configurations, the baseline first."""
    known = {curve.configuration for curve in table.curves}
    chosen = {selection.chosen for selection in table.selections} or known
    for model in dict.fromkeys(configuration.model for configuration in scope.configurations):
        configurations = [
            configuration
            for configuration in scope.configurations
            if configuration in known & chosen and configuration.model == model
        ]
        if not configurations:
            continue
        counts = Counter(configuration.rank for configuration in configurations)
        rank = max(counts, key=lambda rank: (counts[rank], rank))
        of_rank = [configuration for configuration in configurations if configuration.rank == rank]
        base = [configuration for configuration in of_rank if configuration.method == baseline]
        others = [configuration for configuration in of_rank if configuration not in base]
        for chunk, part in numbered_parts(others, LINES - 1):
            yield [*base, *chunk], part, len(counts) > 1


def _caption(table: TaskTable, configuration: RunConfiguration, *, several_ranks: bool) -> str:
    caption = (
        f"{configuration.model}, rank {configuration.rank}. Means over seeds, without dropout."
        " Full lines with bands of ± one standard deviation: evaluation examples. Pale dotted"
        " lines: training examples. The generalisation gap is training minus evaluation."
    )
    if table.selections:
        caption += (
            " Of each method, the configuration with the best mean after the last step, which is a"
            " choice made on the evaluation examples."
        )
    return caption + " The other ranks are in tables/curves.csv." * several_ranks


_KINDS: Final = {
    "rate": "dropout rate",
    "rank": "rank of LoRA",
    "consistency_weight": "weight of the consistency loss",
}


def sweep_plots(table: TaskTable, palette: Palette) -> Iterator[Plot]:
    """Yield figures of the main metric over an option; lines of one figure differ in the method."""
    metric = table.task.metric
    for sweep in table.sweeps:
        for group, suffix in _sweep_groups(sweep, palette.baseline):
            option = _KINDS[sweep.option]
            shown = _SweepFigure(sweep, group, metric, palette)
            yield Plot(
                name=f"{sweep.option}{suffix}",
                kind=sweep.option,
                title=f"{metric} over {option}{suffix}",
                caption=(
                    "Mean over seeds after the last step; bands: 95 % interval of the mean (t)."
                    " Reading the best point off this picture is a choice made on the evaluation"
                    " examples."
                ),
                alt=shown.alt,
                height=2.7 + legend_height([series.label for series in group]),
                draw=shown.draw,
            )


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


class _SweepFigure:
    """Some lines of a sweep over its option, and levels of configurations that lack the option."""

    def __init__(
        self, sweep: Sweep, group: Sequence[Series], metric: str, palette: Palette
    ) -> None:
        self.option = sweep.option
        self.metric = metric
        self.styles = palette.styles((s.label, s.method) for s in group)
        self.levels = [series for series in group if series in sweep.levels]
        self.lines = [series for series in group if series not in sweep.levels]

    def draw(self, figure: Figure) -> None:
        """Put levels and lines on an empty figure."""
        axes = figure.subplots()
        for series in self.levels:
            if (found := series.points[0].last) is not None:
                style = self.styles[series.label]
                draw_level(axes, found.mean, style, series.label, _band(found))
        for series in self.lines:
            known = [(point.x, point.last) for point in series.points if point.last is not None]
            xs, means = [x for x, _ in known], [found.mean for _, found in known]
            bands = [_band(found) for _, found in known]
            draw_line(axes, xs, means, self.styles[series.label], series.label, bands)
        axes.set(xlabel=_KINDS[self.option], ylabel=f"{self.metric} after the last step")
        if self.option == "rank":
            axes.set_xscale("log", base=2)
        ticks = sorted({point.x for series in self.lines for point in series.points})
        axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
        axes.minorticks_off()
        add_legend(figure, axes)

    @property
    def alt(self) -> str:
        """All points in words."""
        parts = [f"{series.label} without it: {_mean(series.points[0])}" for series in self.levels]
        for series in self.lines:
            points = ", ".join(f"{point.x:g}: {_mean(point)}" for point in series.points)
            parts.append(f"{series.label} at {points}")
        return f"Lines of {self.metric} over {_KINDS[self.option]}. {'; '.join(parts)}."


def _band(found: Estimate) -> tuple[float, float]:
    return found.interval() or (found.mean, found.mean)


def _mean(point: SweepPoint) -> str:
    return number(None if point.last is None else point.last.mean)
