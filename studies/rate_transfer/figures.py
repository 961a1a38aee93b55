"""The metric over the dropout rate, a line for each task, against plain LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hiddenkey.lab.present.canvas import INK, LINES, Axes, Figure, Palette, Plot, Style
from hiddenkey.lab.present.drawing import add_legend, draw_line, legend_height, numbered_parts
from hiddenkey.lab.present.words import signed
from rate_transfer.transfer import RatePoint, Transfer

MEAN: Final = "mean over the tasks"
_SHIFT: Final = 0.07
"""Distance of two tasks' intervals, as a share of the distance of two rates."""


def transfer_plots(found: Transfer) -> list[Plot]:
    """Return a figure for every five tasks, with the mean over all tasks in each."""
    told = all(point.gain is not None for task in found.tasks for point in task.points)
    palette = Palette((MEAN, *(task.task for task in found.tasks)), MEAN)
    plots = []
    for chunk, part in numbered_parts(found.tasks, LINES - 1):
        lines = {MEAN: found.points, **{task.task: task.points for task in chunk}}
        plots.append(_plot(found, lines, palette, part, told=told))
    return plots


def _plot(
    found: Transfer,
    lines: dict[str, tuple[RatePoint, ...]],
    palette: Palette,
    part: str,
    *,
    told: bool,
) -> Plot:
    against = f"points above {found.baseline}" if told else "points above the mean over the rates"
    places = range(len(found.rates))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(0, color=INK, linewidth=0.8)
        for index, (label, points) in enumerate(lines.items()):
            shift = (index - (len(lines) - 1) / 2) * _SHIFT
            _line(axes, [place + shift for place in places], points, palette.style(label), label)
        axes.set_xticks(places, [f"{rate:g}" for rate in found.rates])
        axes.set(xlabel="dropout rate", ylabel=against)
        add_legend(figure, axes)

    caption = (
        f"Main metric after the last step, mean over {len(found.seeds)} seeds, in percentage"
        " points."
    )
    if told:
        caption += (
            f" Differences are paired with {found.baseline}'s runs of the same seed; bars: 95 %"
            " interval of each difference. Reading a best rate off this picture is a choice made on"
            " the evaluation examples."
        )
    return Plot(
        kind="transfer",
        title=f"{found.method}: metric over dropout rate by task{part}",
        caption=caption,
        alt=_alt(lines, against),
        height=3.0 + legend_height(list(lines)),
        draw=draw,
    )


def _line(
    axes: Axes, places: Sequence[float], points: Sequence[RatePoint], style: Style, label: str
) -> None:
    draw_line(axes, places, _heights(points), style, label)
    for place, point in zip(places, points, strict=True):
        if point.gain is not None and point.gain.interval is not None:
            axes.vlines(place, *point.gain.interval, color=style.colour, linewidth=1.0, alpha=0.7)


def _heights(points: Sequence[RatePoint]) -> list[float]:
    """Differences to the baseline; without it, to the mean over the rates."""
    centre = sum(point.mean for point in points) / len(points)
    return [
        point.mean - centre if point.gain is None else point.gain.difference for point in points
    ]


def _alt(lines: dict[str, tuple[RatePoint, ...]], against: str) -> str:
    parts = []
    for label, points in lines.items():
        values = zip(points, _heights(points), strict=True)
        parts.append(
            f"{label} at {', '.join(f'{p.rate:g}: {signed(height, 2)}' for p, height in values)}"
        )
    return f"Lines of {against} over the dropout rate. {'; '.join(parts)}."
