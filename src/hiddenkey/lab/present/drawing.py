"""What figures are drawn with: lines, rows with intervals, legends, and parts of long lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hiddenkey.lab.present.canvas import Axes, Figure, Style


def draw_line(
    axes: Axes,
    xs: Sequence[float],
    ys: Sequence[float],
    style: Style,
    label: str,
    band: Sequence[tuple[float, float]] = (),
) -> None:
    """Draw a line with markers, and a pale band of bounds around it."""
    axes.plot(xs, ys, color=style.colour, linestyle=style.dash, marker=style.marker, label=label)
    if band:
        lows, highs = zip(*band, strict=True)
        axes.fill_between(xs, lows, highs, color=style.colour, alpha=0.12, linewidth=0)


def draw_level(axes: Axes, y: float, style: Style, label: str, band: tuple[float, float]) -> None:
    """Draw a line over the whole width, and a pale band of bounds around it."""
    axes.axhline(y, color=style.colour, linestyle=style.dash, label=label)
    axes.axhspan(*band, color=style.colour, alpha=0.1, linewidth=0)


def draw_dots(axes: Axes, xs: Sequence[float], ys: Sequence[float], style: Style) -> None:
    """Draw a pale dotted line beside those of :func:`draw_line`."""
    axes.plot(xs, ys, color=style.colour, linestyle=":", linewidth=1.2, alpha=0.75)


def labelled_rows(figure: Figure, labels: Sequence[str]) -> Axes:
    """Return axes with one row for each label, from top to bottom; labels stand above rows."""
    axes = figure.subplots()
    axes.set_ylim(len(labels) - 0.4, -0.85)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    for row, label in enumerate(labels):
        axes.text(
            0, row - 0.3, shorten(label, 60), transform=axes.get_yaxis_transform(),
            fontsize=8, va="center", zorder=5, in_layout=False,
        )  # fmt: skip
    return axes


@dataclass(frozen=True)
class IntervalRow:
    """A mean with its interval, on a row of a figure.

    Attributes:
        label: of the row, and in a legend.
        style: colour and marker.
        mean: the large point; ``None`` leaves the row empty.
        interval: the line through it; ``None`` if there is none.
        values: small points above it.
        filled: whether the large point is.
    """

    label: str
    style: Style
    mean: float | None
    interval: tuple[float, float] | None
    values: tuple[float, ...] = ()
    filled: bool = True


def draw_intervals(axes: Axes, rows: Sequence[IntervalRow], below: float = 0.0) -> None:
    """Draw rows from top to bottom; those of one look are one artist, since each takes its time.

    Args:
        axes: where to draw.
        rows: the first is at 0.
        below: how far each mean is below the middle of its row.
    """
    for style, filled in dict.fromkeys((row.style, row.filled) for row in rows):
        own = [
            (place, row)
            for place, row in enumerate(rows)
            if (row.style, row.filled) == (style, filled)
        ]
        look: dict[str, Any] = {"ls": "none", "marker": style.marker, "color": style.colour}
        xs = [value for _, row in own for value in row.values]
        ys = [place + 0.02 for place, row in own for _ in row.values]
        axes.plot(xs, ys, markersize=4, alpha=0.75, markeredgewidth=0, **look)
        lines = [(place + below, *row.interval) for place, row in own if row.interval is not None]
        if lines:
            at, lows, highs = zip(*lines, strict=True)
            axes.hlines(at, lows, highs, color=style.colour, linewidth=1.8)
        means = [(row.mean, place + below) for place, row in own if row.mean is not None]
        axes.plot(
            [mean for mean, _ in means],
            [place for _, place in means],
            markersize=6.5,
            markerfacecolor=style.colour if filled else "white",
            label=own[0][1].label,
            **look,
        )


def legend_height(labels: Sequence[str]) -> float:
    """Return the inches that :func:`add_legend` takes."""
    return 0.19 * -(-len(labels) // _legend_columns(labels)) + 0.1


def add_legend(figure: Figure, axes: Axes) -> None:
    """Put the legend of one panel below the figure."""
    handles, labels = axes.get_legend_handles_labels()
    shown = [shorten(label) for label in labels]
    columns = _legend_columns(labels)
    figure.legend(handles, shown, loc="outside lower left", ncols=columns, handlelength=2.6)


def shorten(label: str, length: int = 48) -> str:
    """Return a label that fits on one line of a figure."""
    return label if len(label) <= length else f"{label[: length - 1]}…"


def _legend_columns(labels: Sequence[str]) -> int:
    longest = max(map(len, labels), default=0)
    return 3 if longest <= 12 else 2 if longest <= 22 else 1


def numbered_parts(items: Sequence[Any], size: int) -> list[tuple[list[Any], str]]:
    """Split into parts of nearly equal length, none longer than ``size``.

    Returns:
        The parts, and the end of each part's title, which is empty for a single one. Without items
        there is one part that is empty.
    """
    parts = max(1, -(-len(items) // size))
    bounds = [round(len(items) * part / parts) for part in range(parts + 1)]
    return [
        (list(items[low:high]), f" ({index} of {parts})" if parts > 1 else "")
        for index, (low, high) in enumerate(pairwise(bounds), 1)
    ]
