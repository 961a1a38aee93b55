"""Lines of a measure over a number, such as the rank or the dropout rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hiddenkey.lab.claims.effects import level
from hiddenkey.lab.claims.findings import Evidence, Finding, Values
from hiddenkey.lab.claims.plan import Drawing
from hiddenkey.lab.claims.wording import AXES, value
from hiddenkey.lab.present.canvas import (
    Axes,
    Figure,
    Palette,
    Plot,
    Style,
    add_legend,
    legend_height,
    shorten,
)

_TOP: Final = 2.3
"""Inches of the panel of the mean over tasks."""

_PANEL: Final = 1.5
"""Inches of a row of panels of single tasks."""

_WIDE, _NARROW = 0.06, 0.12
"""Least distance of two numbers at the axis of the large panel and of small ones, as a share."""


@dataclass(frozen=True)
class _Line:
    """One series on one panel.

    Attributes:
        label: in the legend.
        points: number on the axis, mean, and both ends of its interval, which are the mean where
            there is none.
        is_level: all points are the same configuration, which is drawn as a level.
    """

    label: str
    points: tuple[tuple[float, float, float, float], ...]
    is_level: bool


def sweep_plot(
    name: str, finding: Finding, drawing: Drawing, evidence: Evidence, palette: Palette
) -> Iterator[Plot]:
    """Yield the figure of a measure over a number, if there is a value.

    The large panel is the mean over the tasks that count, the small ones are each of them. A series
    whose points are all the same configuration, such as plain LoRA, is drawn as a level.
    """
    tasks = finding.tasks(drawing.measure)
    main = _lines(evidence.values, tasks, drawing)
    if not main:
        return
    alone = {task: _lines(evidence.values, [task], drawing) for task in tasks}
    panels = alone if len(tasks) > 1 else {}
    title = f"mean over {len(tasks)} tasks" if panels else tasks[0]
    looks = palette.styles(
        (label, method_of(finding, names)) for label, names in drawing.series.items()
    )
    rows = -(-len(panels) // 2)

    def draw(figure: Figure) -> None:
        grid = figure.add_gridspec(1 + rows, 2, height_ratios=[_TOP, *[_PANEL] * rows])
        top = figure.add_subplot(grid[0, :])
        _draw_panel(top, title, main, looks, drawing, _WIDE)
        top.set(xlabel=drawing.x, ylabel=AXES[drawing.measure])
        for place, (task, lines) in enumerate(panels.items()):
            axes = figure.add_subplot(grid[1 + place // 2, place % 2])
            _draw_panel(axes, task, lines, looks, drawing, _NARROW)
            axes.tick_params(labelsize=7.5)
        add_legend(figure, top)

    yield Plot(
        name=name,
        kind=finding.claim.name,
        budget="steps",
        task="",
        title=drawing.title,
        caption=_caption(several=bool(panels)),
        alt=_alt(main, drawing),
        height=_TOP + 0.3 + _PANEL * rows + legend_height([*drawing.series]),
        draw=draw,
    )


def method_of(finding: Finding, points: Mapping[float, str]) -> str:
    """Return the method of a line's last point; the first may be plain LoRA, at rate 0."""
    return finding.claim.configurations[points[max(points)]].method


def _lines(values: Values, tasks: Sequence[str], drawing: Drawing) -> tuple[_Line, ...]:
    found = []
    for label, names in drawing.series.items():
        is_level = len(set(names.values())) == 1
        points = []
        for x, name in sorted(names.items()):
            effect = level(values, tasks, name, drawing.measure)
            if effect.mean is not None:
                ends = effect.interval or (effect.mean, effect.mean)
                points.append((x, effect.mean, *ends))
        found.append(_Line(label, tuple(points[:1] if is_level else points), is_level))
    return tuple(line for line in found if line.points)


def _draw_panel(
    axes: Axes,
    title: str,
    lines: Sequence[_Line],
    looks: Mapping[str, Style],
    drawing: Drawing,
    apart: float,
) -> None:
    for line in lines:
        draw = _draw_level if line.is_level else _draw_line
        draw(axes, line, looks[line.label])
    xs = sorted({point[0] for line in lines if not line.is_level for point in line.points})
    logarithmic = drawing.logarithmic and all(x > 0 for x in xs)
    if logarithmic:
        axes.set_xscale("log", base=2)
    ticks = _spaced([math.log(x) if logarithmic else x for x in xs], apart)
    axes.set_xticks(xs, [f"{x:g}" if shown else "" for x, shown in zip(xs, ticks, strict=True)])
    axes.minorticks_off()
    axes.set_title(shorten(title, 24))


def _draw_line(axes: Axes, line: _Line, style: Style) -> None:
    xs, means, lows, highs = zip(*line.points, strict=True)
    axes.plot(
        xs, means, color=style.colour, linestyle=style.dash, marker=style.marker, label=line.label
    )
    axes.vlines(xs, lows, highs, color=style.colour, alpha=0.45)


def _draw_level(axes: Axes, line: _Line, style: Style) -> None:
    _, mean, low, high = line.points[0]
    axes.axhline(mean, color=style.colour, linestyle=style.dash, label=line.label)
    axes.axhspan(low, high, color=style.colour, alpha=0.08, linewidth=0)


def _spaced(places: Sequence[float], apart: float) -> list[bool]:
    """Say which of the places on an axis have room for their number."""
    shown: list[bool] = []
    last = -math.inf
    for place in places:
        shown.append(place - last >= apart * (places[-1] - places[0]))
        last = place if shown[-1] else last
    return shown


def _caption(*, several: bool) -> str:
    panels = "Large panel: mean over the tasks that count; small panels: each of them."
    return " ".join(
        (
            "Mean over seeds; the lines through the points are 95 % intervals (Student's t).",
            *([panels] if several else []),
            "Runs of one seed share weights and batches, so differences are surer than these"
            " intervals: see the effects.",
        )
    )


def _alt(lines: Sequence[_Line], drawing: Drawing) -> str:
    parts = []
    for line in lines:
        points = [f"{x:g}: {value(mean, drawing.measure)}" for x, mean, _, _ in line.points]
        level_shown = value(line.points[0][1], drawing.measure)
        shown = f"everywhere {level_shown}" if line.is_level else f"at {', '.join(points)}"
        parts.append(f"{line.label} {shown}")
    return f"{AXES[drawing.measure]} over {drawing.x}. {'; '.join(parts)}."
