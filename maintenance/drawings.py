"""Draw what docs/concepts shows, as SVG; every mask comes from the library's own patterns.

python maintenance/drawings.py
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path as Outline
from torch import Tensor

from hiddenkey.framework.patterns import PATTERNS

FOLDER: Final = Path(__file__).parents[1] / "docs" / "concepts"
SEED: Final = 3
RATE: Final = 0.3

TOKENS, VISIBLE, FEATURES, RANKS, LAYERS = 12, 10, 8, 4, 8

_PAPER, _INK, _FAINT, _LINE = "#f7f8fa", "#1c2733", "#5b6875", "#8794a1"
_KEPT, _DROPPED, _PADDING, _BOX = "#a9cfe8", "#c8511b", "#e3e7eb", "#ffffff"
_CELL: Final = 11.0

Masks = Mapping[tuple[str, str], Tensor]


def masks() -> Masks:
    """Draw a mask at each place for each pattern, ``[entries, tokens]``, True = keep.

    The last two tokens are padding. Attention has queries for entries, and one head.
    """
    found = {}
    with torch.random.fork_rng([]):
        torch.manual_seed(SEED)
        for pattern in ("element", "column", "span"):
            found["attention", pattern] = _mask(pattern, VISIBLE)
            found["sequence", pattern] = _mask(pattern, FEATURES)
        found["vector", "element"] = _mask("element", FEATURES, tokens=1)
        found["update", "element"] = _mask("element", FEATURES)
        found["bottleneck", "rank"] = _mask("rank", RANKS)
        found["input", "two-sided"] = _mask("two-sided", FEATURES)
        found["update", "two-sided"] = _mask("two-sided", FEATURES)
        adapters = [_mask("adapter", 1, tokens=1) for _ in range(LAYERS)]
        found["layers", "adapter"] = torch.cat(adapters, 1)
    return MappingProxyType(found)


def _mask(pattern: str, entries: int, tokens: int = TOKENS) -> Tensor:
    visible = torch.arange(tokens).view(1, tokens, 1) < VISIBLE
    shape = (1, tokens, entries)
    return PATTERNS[pattern](shape, RATE, visible).expand(shape)[0].T


def layer() -> str:
    """Draw a transformer layer, with the places where noise enters."""
    figure, axes = _canvas(440, 486)
    left, side, width = 28.0, 272.0, 196.0
    middle, edge = left + width / 2, left + width
    axes.add_patch(_rounded(left - 12, 64, width + 24, 350, "#eaf1f7", _LINE))
    _text(axes, left - 6, 74, "one layer", ha="left", color=_FAINT, size=9)
    boxes = {
        "embeddings": (20, 48),
        "queries, keys, values: W·x": (84, 128),
        "logits QKᵀ/√d": (150, 178),
        "softmax: weights": (200, 228),
        "weights · values, projection": (250, 278),
        "first dense layer, activation": (312, 340),
        "second dense layer": (358, 386),
        "classifier, after the last layer": (438, 466),
    }
    for words, (top, bottom) in boxes.items():
        _box(axes, left, top, width, words, height=bottom - top)
    ends = list(boxes.values())
    for (_, start), (end, _) in pairwise(ends):
        _arrow(axes, (middle, start), (middle, end))
    for top in (295, 405):
        _text(axes, middle + 10, top, "+ residual, norm", ha="left", color=_FAINT, size=9)
    _mark(axes, (middle, 56), (side, 56), "input", "Cutoff")
    _mark(axes, (middle, 188), (side, 188), "attention_logits", "DropKey")
    _mark(axes, (middle, 238), (side, 238), "attention_weights", "DropAttention")
    _mark(axes, (middle, 393), (side, 393), "hidden", "HiddenCut")
    _mark(axes, (middle, 426), (side, 426), "output", "output dropout")
    _adapter(axes, side, edge)
    return _rendered(figure, "layer")


def _adapter(axes: Axes, left: float, edge: float) -> None:
    """Draw LoRA's path beside a frozen layer."""
    end = left + 85
    _arrow(axes, (edge, 94), (left, 94))
    _box(axes, left, 80, 40, "A", fill="#f6e3cf")
    _arrow(axes, (left + 40, 94), (left + 65, 94))
    _box(axes, left + 65, 80, 40, "B", fill="#f6e3cf")
    axes.plot([end, end], [108, 120], color=_LINE, linewidth=1)
    _arrow(axes, (end, 120), (edge, 120))
    _mark(axes, (end, 120), (end + 20, 120), "update", "B·A·x")


def units() -> str:
    """Draw which units are dropped together at each place, for element, column and span."""
    figure, axes = _canvas(460, 470)
    drawn = masks()
    lefts = {"attention": 82.0, "sequence": 244.0, "vector": 386.0}
    heads = {
        "attention": ("attention head", "logits or weights"),
        "sequence": ("sequence", "input or hidden"),
        "vector": ("one vector", "output"),
    }
    for place, (above, below) in heads.items():
        _text(axes, lefts[place], 24, above, ha="left", weight="bold")
        _text(axes, lefts[place], 40, below, ha="left", color=_FAINT)
    for row, pattern in enumerate(("element", "column", "span")):
        top = 56.0 + 128 * row
        _text(axes, 14, top + 55, pattern, ha="left", weight="bold")
        for place, left in lefts.items():
            if (place, pattern) in drawn:
                _grid(axes, drawn[place, pattern], left, top, padded=place != "vector")
            else:
                _text(axes, left, top + 55, "refused", ha="left", color=_FAINT)
        _text(axes, 74, top + 55, "queries", rotation=90, color=_FAINT, size=9)
        _text(axes, 236, top + 44, "features", rotation=90, color=_FAINT, size=9)
    _text(axes, 82 + _CELL * TOKENS / 2, 436, "keys", color=_FAINT, size=9)
    _text(axes, 244 + _CELL * TOKENS / 2, 436, "tokens", color=_FAINT, size=9)
    _legend(axes, 82, 448)
    return _rendered(figure, "units")


def update() -> str:
    """Draw which units of an adapter's update are dropped together."""
    figure, axes = _canvas(510, 462)
    drawn = masks()
    lefts = {"input": 76.0, "bottleneck": 222.0, "update": 368.0}
    heads = {"input": "what enters A", "bottleneck": "between A and B", "update": "what leaves B"}
    for place, words in heads.items():
        _text(axes, lefts[place], 28, words, ha="left", weight="bold")
    for row, pattern in enumerate(("element", "rank", "two-sided")):
        top = 44.0 + 108 * row
        _text(axes, 12, top + 44, pattern, ha="left", weight="bold")
        for place, left in lefts.items():
            entries = RANKS if place == "bottleneck" else FEATURES
            kept = torch.ones(entries, TOKENS, dtype=torch.bool)
            shift = _CELL * (FEATURES - entries) / 2
            _grid(axes, drawn.get((place, pattern), kept), left, top + shift)
    for place, left in lefts.items():
        entries = "ranks" if place == "bottleneck" else "features"
        _text(axes, left - 8, 88, entries, rotation=90, color=_FAINT, size=9)
        _text(axes, left + _CELL * TOKENS / 2, 360, "tokens", color=_FAINT, size=9)
    _text(axes, 12, 392, "adapter", ha="left", weight="bold")
    _grid(axes, drawn["layers", "adapter"], 76, 386, padded=False)
    words = "one square for each layer: its whole update, in all sequences"
    _text(axes, 76 + _CELL * (LAYERS + 1), 392, words, ha="left", color=_FAINT)
    _legend(axes, 76, 430)
    return _rendered(figure, "update")


def passes() -> str:
    """Draw a training step of one pass, of two passes, and with an earlier prediction."""
    figure, axes = _canvas(470, 350)
    for left, head in ((16, "one pass"), (150, "two passes"), (312, "one pass, and history")):
        _text(axes, left, 26, head, ha="left", weight="bold")
    _branch(axes, 16, "mask m", "P", width=112)
    _branch(axes, 150, "mask m₁", "P₁", width=66)
    _branch(axes, 224, "mask m₂", "P₂", width=66, dashed=True)
    _branch(axes, 312, "mask m", "P", width=66)
    _box(axes, 386, 104, 68, "stored Q", fill="#f6e3cf")
    for top, words in ((144, "its own last"), (157, "prediction")):
        _text(axes, 420, top, words, color=_FAINT, size=9)
    _box(axes, 16, 232, 112, "task loss")
    _box(axes, 150, 232, 140, "task loss + weight · KL")
    _box(axes, 312, 232, 142, "task loss + weight · KL")
    for x in (72, 183, 345):
        _arrow(axes, (x, 188), (x, 232))
    _arrow(axes, (257, 188), (257, 232), dashed=True)
    _arrow(axes, (420, 166), (420, 232), dashed=True)
    notes = (
        "m: a mask, drawn anew. P: the prediction. Dashed: no gradient flows back.",
        "Evaluation, in every case: one pass and no mask,",
        "bit-equal to the model without noise.",
    )
    for number, words in enumerate(notes):
        _text(axes, 16, 284 + 20 * number, words, ha="left", color=_FAINT)
    return _rendered(figure, "passes")


def _branch(
    axes: Axes, left: float, words: str, result: str, *, width: float, dashed: bool = False
) -> None:
    middle = left + width / 2
    _box(axes, left, 44, width, "batch")
    _box(axes, left, 104, width, words, fill="#eaf1f7")
    _box(axes, left, 160, width, result)
    _arrow(axes, (middle, 72), (middle, 104), dashed=dashed)
    _arrow(axes, (middle, 132), (middle, 160), dashed=dashed)


DRAWINGS: Final[Mapping[str, Callable[[], str]]] = MappingProxyType(
    {"layer": layer, "units": units, "update": update, "passes": passes}
)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure and its axes in points, the first row at the top, on a light sheet."""
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    axes.add_patch(_rounded(1, 1, width - 2, height - 2, _PAPER, _PADDING))
    return figure, axes


def _rounded(
    left: float, top: float, width: float, height: float, fill: str, edge: str
) -> FancyBboxPatch:
    style = "round,pad=0,rounding_size=6"
    return FancyBboxPatch((left, top), width, height, style, facecolor=fill, edgecolor=edge)


def _box(
    axes: Axes,
    left: float,
    top: float,
    width: float,
    words: str,
    *,
    height: float = 28,
    fill: str = _BOX,
) -> None:
    axes.add_patch(_rounded(left, top, width, height, fill, _LINE))
    _text(axes, left + width / 2, top + height / 2, words)


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    dashed: bool = False,
) -> None:
    line = (0, (3, 2)) if dashed else "solid"
    shown = FancyArrowPatch(
        start, end, arrowstyle="->", color=_LINE, linestyle=line, mutation_scale=9, shrinkA=0,
        shrinkB=0,
    )  # fmt: skip
    axes.add_patch(shown)


def _mark(
    axes: Axes, at: tuple[float, float], label: tuple[float, float], name: str, method: str
) -> None:
    """Mark a place where noise enters, and say which."""
    axes.plot([at[0], label[0] - 6], [at[1], label[1]], color=_DROPPED, linewidth=1, zorder=4)
    axes.plot(*at, marker="o", color=_DROPPED, markersize=7, zorder=5)
    _text(axes, label[0], label[1] - 7, name, ha="left", weight="bold", color=_DROPPED)
    _text(axes, label[0], label[1] + 7, method, ha="left", color=_FAINT)


def _grid(axes: Axes, keep: Tensor, left: float, top: float, *, padded: bool = True) -> None:
    """Draw a mask ``[entries, tokens]``: a cell for each unit."""
    rows, columns = keep.shape
    width, height = columns * _CELL, rows * _CELL
    axes.add_patch(Rectangle((left, top), width, height, facecolor=_KEPT, linewidth=0))
    dropped = [(left + x * _CELL, top + y * _CELL) for y, x in (~keep).nonzero().tolist()]
    if dropped:
        axes.add_patch(PathPatch(_cells(dropped), facecolor=_DROPPED, linewidth=0))
    if padded:
        start, rest = left + VISIBLE * _CELL, (columns - VISIBLE) * _CELL
        axes.add_patch(Rectangle((start, top), rest, height, facecolor=_PADDING, linewidth=0))
    lines: dict[str, Any] = {"color": _PAPER, "linewidth": 1}
    axes.vlines([left + x * _CELL for x in range(columns + 1)], top, top + height, **lines)
    axes.hlines([top + y * _CELL for y in range(rows + 1)], left, left + width, **lines)


def _cells(corners: Sequence[tuple[float, float]]) -> Outline:
    """Return one outline of many cells, which is smaller than a shape for each."""
    step = ((0.0, 0.0), (_CELL, 0.0), (_CELL, _CELL), (0.0, _CELL), (0.0, 0.0))
    codes = [Outline.MOVETO, *[Outline.LINETO] * 3, Outline.CLOSEPOLY]
    points = [(x + dx, y + dy) for x, y in corners for dx, dy in step]
    return Outline(points, codes * len(corners))


def _legend(axes: Axes, left: float, top: float) -> None:
    words = {"kept": _KEPT, "dropped": _DROPPED, "padding": _PADDING}
    for number, (name, colour) in enumerate(words.items()):
        start = left + 90 * number
        axes.add_patch(Rectangle((start, top), _CELL, _CELL, facecolor=colour, linewidth=0))
        _text(axes, start + _CELL + 6, top + 6, name, ha="left", color=_FAINT)


def _text(axes: Axes, x: float, y: float, words: str, **style: Any) -> None:
    given = {"ha": "center", "va": "center", "color": _INK, "size": 10, **style}
    given["va"] = "center_baseline" if "rotation" not in given else "center"
    axes.text(x, y, words, zorder=6, **given)


def _rendered(figure: Figure, name: str) -> str:
    """Return the SVG text, the same at each call."""
    text = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": name, "font.sans-serif": ["DejaVu Sans"]}
    with rc_context(settings):
        figure.savefig(text, format="svg", facecolor="none", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def main() -> None:
    """Write all drawings."""
    for name, draw in DRAWINGS.items():
        (FOLDER / f"{name}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
