"""The figures: effects with their intervals, and lines of a measure over a number."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from hiddenkey.lab.claims.effects import Effect, Values, Verdict, level
from hiddenkey.lab.claims.findings import Evidence, Ruling
from hiddenkey.lab.claims.plan import BASELINE, COST, Drawing
from hiddenkey.lab.claims.wording import AXES, effect_text, value
from hiddenkey.lab.present.canvas import COLOURS, INK, Axes, Figure, Palette, Plot, Style
from hiddenkey.lab.present.drawing import add_legend, draw_level, draw_line, legend_height, shorten

_TOP: Final = 2.3
"""Inches of the panel of the mean over tasks."""

_PANEL: Final = 1.5
"""Inches of a row of panels of single tasks."""

_WIDE, _NARROW = 0.06, 0.12
"""Least distance of two numbers at the axis of the large panel and of small ones, as a share."""

VERDICT_STYLES: Final[Mapping[Verdict, Style]] = {
    "holds": Style(COLOURS[2], "o", "-"),
    "does not hold": Style(COLOURS[1], "D", "-"),
    "cannot tell": Style(INK, "s", "-"),
}
"""Colour and marker of a verdict."""

_HEADING, _LINE, _GAP = 0.24, 0.19, 0.12
"""Inches of a question's heading, of each of its lines, and between questions."""

_CAPTION: Final = (
    "Mean over seeds; bands: 95 % interval of the mean (Student's t).{panels} Runs"
    " of one seed share weights and batches, so differences vary less than these intervals: see the"
    " effects."
)
_PANELS: Final = " Large panel: mean over the tasks that count; small panels: each of them."

_Points = Mapping[float, tuple[float, float, float]]
"""Mean and ends of its interval by number on the axis; a level has the number NaN."""


def list_plots(evidence: Evidence) -> list[Plot]:
    """Return the figures of all claims, named ``claims_<scale>_<claim>_<number>``.

    The number is the drawing's place in the claim's plan. Figures without a value are left out, and
    so are drawings that are tables.
    """
    series = [
        (finding, points)
        for finding in evidence.findings
        for drawing in finding.claim.pictures
        for points in drawing.series.values()
    ]
    methods = dict.fromkeys((BASELINE, *(_method(*each) for each in series)))
    palette = Palette(tuple(methods), BASELINE)
    plots: list[Plot] = []
    for finding in evidence.findings:
        for index, drawing in enumerate(finding.claim.pictures, 1):
            parts = f"claims {evidence.scale.name} {finding.claim.name} {index}"
            name = re.sub(r"[^a-z0-9]+", "_", parts.lower())
            if drawing.kind == "sweep":
                plots += _sweep_plot(name, finding, drawing, evidence.values, palette)
            elif drawing.kind == "effects":
                plots += _effects_plot(name, finding, drawing)
    return plots


def _method(finding: Ruling, points: Mapping[float, str]) -> str:
    """The method of a line's last point; the first may be plain LoRA, at rate 0."""
    return finding.claim.configurations[points[max(points)]].method


def _sweep_plot(
    name: str, finding: Ruling, drawing: Drawing, values: Values, palette: Palette
) -> Iterator[Plot]:
    """Yield the figure of a measure over a number, if there is a value.

    The large panel is the mean over the tasks that count, the small ones are each of them.
    """
    tasks = finding.tasks(drawing.measure)
    main = _lines(values, tasks, drawing)
    if not main:
        return
    alone = {task: _lines(values, [task], drawing) for task in tasks if len(tasks) > 1}
    looks = palette.styles((label, _method(finding, of)) for label, of in drawing.series.items())
    rows = -(-len(alone) // 2)

    def draw(figure: Figure) -> None:
        grid = figure.add_gridspec(1 + rows, 2, height_ratios=[_TOP, *[_PANEL] * rows])
        top = figure.add_subplot(grid[0, :])
        title = f"mean over {len(tasks)} tasks" if alone else tasks[0]
        _draw_panel(top, title, main, looks, drawing, _WIDE)
        top.set(xlabel=drawing.x, ylabel=AXES[drawing.measure])
        for place, (task, lines) in enumerate(alone.items()):
            axes = figure.add_subplot(grid[1 + place // 2, place % 2])
            _draw_panel(axes, task, lines, looks, drawing, _NARROW)
            axes.tick_params(labelsize=7.5)
        add_legend(figure, top)

    yield Plot(
        name=name,
        kind=finding.claim.name,
        title=drawing.title,
        caption=_CAPTION.format(panels=_PANELS if alone else ""),
        alt=_alt(main, drawing),
        height=_TOP + 0.3 + _PANEL * rows + legend_height([*drawing.series]),
        draw=draw,
    )


def _lines(values: Values, tasks: Sequence[str], drawing: Drawing) -> dict[str, _Points]:
    """The lines with a value; a series of one configuration, such as plain LoRA, is a level."""
    found = {}
    for label, names in drawing.series.items():
        if len(set(names.values())) == 1:
            names = {math.nan: next(iter(names.values()))}
        points = {}
        for x, name in sorted(names.items()):
            effect = level(values, tasks, name, drawing.measure)
            if effect.mean is not None:
                points[x] = effect.mean, *(effect.interval or (effect.mean, effect.mean))
        found[label] = points
    return {label: points for label, points in found.items() if points}


def _draw_panel(
    axes: Axes,
    title: str,
    lines: Mapping[str, _Points],
    looks: Mapping[str, Style],
    drawing: Drawing,
    apart: float,
) -> None:
    for label, points in lines.items():
        means, lows, highs = zip(*points.values(), strict=True)
        ends = list(zip(lows, highs, strict=True))
        if math.isnan(next(iter(points))):
            draw_level(axes, means[0], looks[label], label, ends[0])
        else:
            draw_line(axes, [*points], means, looks[label], label, ends)
    xs = sorted({x for points in lines.values() for x in points if not math.isnan(x)})
    logarithmic = drawing.logarithmic and all(x > 0 for x in xs)
    if logarithmic:
        axes.set_xscale("log", base=2)
    ticks = _spaced([math.log(x) if logarithmic else x for x in xs], apart)
    axes.set_xticks(xs, [f"{x:g}" if shown else "" for x, shown in zip(xs, ticks, strict=True)])
    axes.minorticks_off()
    axes.set_title(shorten(title, 24))


def _spaced(places: Sequence[float], apart: float) -> list[bool]:
    """Say which of the places on an axis have room for their number."""
    shown: list[bool] = []
    last = -math.inf
    for place in places:
        shown.append(place - last >= apart * (places[-1] - places[0]))
        last = place if shown[-1] else last
    return shown


def _alt(lines: Mapping[str, _Points], drawing: Drawing) -> str:
    parts = []
    for label, points in lines.items():
        shown = {x: value(mean, drawing.measure) for x, (mean, *_) in points.items()}
        is_level = math.isnan(next(iter(points)))
        listed = (mean if is_level else f"{x:g}: {mean}" for x, mean in shown.items())
        parts.append(f"{label} {'everywhere' if is_level else 'at'} {', '.join(listed)}")
    return f"{AXES[drawing.measure]} over {drawing.x}. {'; '.join(parts)}."


def _effects_plot(name: str, finding: Ruling, drawing: Drawing) -> Iterator[Plot]:
    """Yield the figure of the effects on a drawing's measure, if there is one."""
    groups: dict[str, list[Effect]] = {}
    for effect in finding.effects:
        if effect.contrast.measure == drawing.measure and effect.mean is not None:
            groups.setdefault(effect.contrast.name, []).append(effect)
    effects = [effect for group in groups.values() for effect in group]
    if not effects:
        return
    height = sum(_HEADING + _LINE * len(group) + _GAP for group in groups.values())
    shown = (f"{effect.label}: {effect_text(effect)}, {effect.verdict}" for effect in effects)
    yield Plot(
        name=name,
        kind=finding.claim.name,
        title=drawing.title,
        caption=_caption(finding, effects),
        alt=f"Effects. {'; '.join(shown)}.",
        height=height + 0.65 + legend_height(list({effect.verdict for effect in effects})),
        draw=lambda figure: _draw(figure, finding, list(groups.values())),
    )


def _draw(figure: Figure, finding: Ruling, groups: Sequence[Sequence[Effect]]) -> None:
    """Draw questions from top to bottom; the vertical axis is in inches."""
    axes = figure.subplots()
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    labels: dict[float, str] = {}
    span, at = _span([effect for group in groups for effect in group]), 0.0
    for group in groups:
        contrast = group[0].contrast
        axes.text(
            0, at + _HEADING / 2, shorten(contrast.name, 60),
            transform=axes.get_yaxis_transform(), fontsize=8.5, va="center", in_layout=False,
        )  # fmt: skip
        top, at = at + _HEADING, at + _HEADING + _LINE * len(group)
        axes.fill_betweenx([top, at], *_band(group[0], span), color=INK, alpha=0.08, linewidth=0)
        axes.vlines(contrast.no_effect, top, at, color=INK, linewidth=1)
        for row, effect in enumerate(group):
            middle = top + _LINE * (row + 0.5)
            _draw_effect(axes, effect, middle, counts=finding.counts(effect))
            labels[middle] = shorten(effect.task or "mean", 18)
        at += _GAP
    axes.set_ylim(at, 0)
    axes.set_yticks([*labels], [*labels.values()], fontsize=7.5)
    axes.tick_params(axis="y", length=0)
    axis = AXES[contrast.measure]
    axes.set_xlabel(axis if contrast.measure == COST else f"effect ({axis})")
    add_legend(figure, axes)


def _draw_effect(axes: Axes, effect: Effect, at: float, *, counts: bool) -> None:
    """Draw one line; a verdict enters the legend once."""
    style, pooled = VERDICT_STYLES[effect.verdict], effect.task is None
    if effect.interval is not None:
        axes.hlines(at, *effect.interval, color=style.colour, linewidth=3 if pooled else 1.2)
    named = axes.get_legend_handles_labels()[1]
    axes.plot(
        [effect.mean or 0.0],
        [at],
        linestyle="none",
        color=style.colour,
        marker=style.marker,
        markersize=7 if pooled else 4.5,
        markerfacecolor=style.colour if counts else "none",
        label=None if effect.verdict in named else effect.verdict,
    )


def _span(effects: Sequence[Effect]) -> tuple[float, float]:
    """What the intervals of a figure span, widened by half on each side."""
    ends = [
        end
        for effect in effects
        for end in (effect.mean, *(effect.interval or ()), effect.contrast.no_effect)
        if end is not None
    ]
    more = (max(ends) - min(ends)) / 2
    return min(ends) - more, max(ends) + more


def _band(effect: Effect, span: tuple[float, float]) -> tuple[float, float]:
    """What is shaded: the expected range of ``between``, else what is too small to matter."""
    contrast = effect.contrast
    if contrast.expect == "between":
        return max(contrast.low, span[0]), min(contrast.high, span[1])
    return contrast.no_effect - contrast.margin, contrast.no_effect + contrast.margin


def _caption(finding: Ruling, effects: Sequence[Effect]) -> str:
    shaded = dict.fromkeys(
        "the range that the claim expects"
        if effect.contrast.expect == "between"
        else "too small to matter"
        for effect in effects
    )
    parts = ["Effects with their 95 % intervals, coloured by the verdict on each."]
    if len({effect.task is None for effect in effects}) == 2:
        parts.append("Thick: mean over the tasks that count; thin: each task.")
    if not all(map(finding.counts, effects)):
        parts.append("Hollow: a task that does not count.")
    return " ".join([*parts, f"Shaded: {', or '.join(sorted(shaded, reverse=True))}."])
