"""Effects with their intervals, a block of lines for each question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from hiddenkey.lab.claims.findings import Effect, Finding, Verdict
from hiddenkey.lab.claims.plan import COST, Drawing
from hiddenkey.lab.claims.wording import AXES, effect_text
from hiddenkey.lab.present.canvas import COLOURS, INK, Axes, Figure, Plot, Style
from hiddenkey.lab.present.drawing import add_legend, legend_height, shorten

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
        budget="steps",
        task="",
        title=drawing.title,
        caption=_caption(finding, effects),
        alt=f"Effects. {'; '.join(shown)}.",
        height=height + 0.65 + legend_height(list({effect.verdict for effect in effects})),
        draw=lambda figure: _draw(figure, finding, list(groups.values())),
    )


def _draw(figure: Figure, finding: Finding, groups: Sequence[Sequence[Effect]]) -> None:
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


def _caption(finding: Finding, effects: Sequence[Effect]) -> str:
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
