"""Effects with their intervals, a block of lines for each question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from hiddenkey.lab.claims.findings import Effect, Finding, Verdict
from hiddenkey.lab.claims.plan import COST, Drawing
from hiddenkey.lab.claims.wording import AXES, effect_text
from hiddenkey.lab.present.canvas import (
    COLOURS,
    INK,
    Axes,
    Figure,
    Plot,
    Style,
    add_legend,
    legend_height,
    shorten,
)

VERDICT_STYLES: Final[Mapping[Verdict, Style]] = {
    "holds": Style(COLOURS[2], "o", "-"),
    "does not hold": Style(COLOURS[1], "D", "-"),
    "cannot tell": Style(INK, "s", "-"),
}
"""Colour and marker of a verdict."""

_HEADING, _LINE, _GAP = 0.24, 0.19, 0.12
"""Inches of a question's heading, of each of its lines, and between questions."""


def effects_plot(name: str, finding: Finding, drawing: Drawing) -> Iterator[Plot]:
    """Yield the figure of the effects on a drawing's measure, if there is one."""
    effects = [
        effect
        for effect in finding.effects
        if effect.contrast.measure == drawing.measure and effect.mean is not None
    ]
    if not effects:
        return
    names = dict.fromkeys(effect.contrast.name for effect in effects)
    groups = [[e for e in effects if e.contrast.name == name] for name in names]
    height = sum(_HEADING + _LINE * len(group) + _GAP for group in groups)
    verdicts = dict.fromkeys(effect.verdict for effect in effects)
    yield Plot(
        name=name,
        kind=finding.claim.name,
        budget="steps",
        task="",
        title=drawing.title,
        caption=_effects_caption(finding, effects),
        alt=f"Effects. {'; '.join(_effect_alt(effect) for effect in effects)}.",
        height=height + 0.65 + legend_height([*verdicts]),
        draw=lambda figure: _draw_effects(figure, finding, groups),
    )


def _draw_effects(figure: Figure, finding: Finding, groups: Sequence[Sequence[Effect]]) -> None:
    """Draw questions from top to bottom; the vertical axis is in inches."""
    axes = figure.subplots()
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    labels: list[tuple[float, str]] = []
    named: set[str] = set()
    span, at = _span(groups), 0.0
    for group in groups:
        axes.text(
            0, at + _HEADING / 2, shorten(group[0].contrast.name, 60),
            transform=axes.get_yaxis_transform(), fontsize=8.5, va="center", in_layout=False,
        )  # fmt: skip
        top, at = at + _HEADING, at + _HEADING + _LINE * len(group)
        axes.fill_betweenx([top, at], *_band(group[0], span), color=INK, alpha=0.08, linewidth=0)
        axes.vlines(group[0].contrast.no_effect, top, at, color=INK, linewidth=1)
        for row, effect in enumerate(group):
            middle = top + _LINE * (row + 0.5)
            _draw_effect(
                axes,
                effect,
                middle,
                counts=finding.counts(effect),
                named=named,
            )
            labels.append((middle, shorten(effect.task or "mean", 18)))
        at += _GAP
    axes.set_ylim(at, 0)
    axes.set_yticks([place for place, _ in labels], [label for _, label in labels], fontsize=7.5)
    axes.tick_params(axis="y", length=0)
    measure = groups[0][0].contrast.measure
    axes.set_xlabel(AXES[measure] if measure == COST else f"effect ({AXES[measure]})")
    add_legend(figure, axes)


def _draw_effect(axes: Axes, effect: Effect, at: float, *, counts: bool, named: set[str]) -> None:
    """Draw one line; a verdict enters the legend once."""
    style = VERDICT_STYLES[effect.verdict]
    pooled = effect.task is None
    if effect.interval is not None:
        width = 3 if pooled else 1.2
        axes.hlines(at, *effect.interval, color=style.colour, linewidth=width)
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
    named.add(effect.verdict)


def _span(groups: Sequence[Sequence[Effect]]) -> tuple[float, float]:
    """What the intervals of a figure span, widened by half on each side."""
    ends = [
        end
        for group in groups
        for e in group
        for end in (e.mean, *(e.interval or ()), e.contrast.no_effect)
        if end is not None
    ]
    more = (max(ends) - min(ends)) / 2
    return min(ends) - more, max(ends) + more


def _band(effect: Effect, span: tuple[float, float]) -> tuple[float, float]:
    """What is shaded: the expected range of ``between``, else what is too small to matter."""
    contrast = effect.contrast
    if contrast.expect == "between":
        return max(contrast.low, span[0]), min(contrast.high, span[1])
    null = contrast.no_effect
    return null - contrast.margin, null + contrast.margin


def _effects_caption(finding: Finding, effects: Sequence[Effect]) -> str:
    ranges = any(effect.contrast.expect == "between" for effect in effects)
    margins = any(effect.contrast.expect != "between" for effect in effects)
    pooled = any(effect.task is None for effect in effects)
    tasks = any(effect.task is not None for effect in effects)
    out = any(not finding.counts(effect) for effect in effects)
    parts = ["Effects with their 95 % intervals, coloured by the verdict on each."]
    parts += ["Thick: mean over the tasks that count; thin: each task."] if pooled and tasks else []
    parts += ["Hollow: a task that does not count."] if out else []
    parts += ["Shaded: too small to matter."] if margins and not ranges else []
    parts += ["Shaded: the range that the claim expects."] if ranges and not margins else []
    parts += (
        ["Shaded: too small to matter, or the range that the claim expects."]
        if ranges and margins
        else []
    )
    return " ".join(parts)


def _effect_alt(effect: Effect) -> str:
    place = f" on {effect.task}" if effect.task else ""
    return f"{effect.contrast.name}{place}: {effect_text(effect)}, {effect.verdict}"
