"""The pictures of an analysis of gradient noise: gradients to LoRA, and gradients to the logits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Final

from gradient_noise.moments import Estimate
from gradient_noise.record import Row
from hiddenkey.lab.present.canvas import COLOURS, INK, Axes, Figure, Plot
from hiddenkey.lab.present.drawing import add_legend, legend_height
from hiddenkey.lab.present.words import number

_STYLES: Final = {"DropKey": ("-", "o"), "DropAttention": ("--", "^")}
_SNR: Final[Mapping[str, Callable[[Row], Estimate]]] = {
    "DropKey": lambda row: row.compared.methods["dropkey"].snr,
    "DropAttention": lambda row: row.compared.loss_snr,
}
"""Of a gradient as an estimate of the expected loss's own, which is DropKey's mean."""

_DROPPED: Final = "share of keys dropped"
_PANEL: Final = 1.9
"""Inches of a panel."""


def list_noise_plots(rows: Sequence[Row], task: str) -> Iterator[Plot]:
    """Yield two plots for each pattern.

    Args:
        rows: of the record.
        task: the task's name.
    """
    for pattern in dict.fromkeys(row.pattern for row in rows):
        own = [row for row in rows if row.pattern == pattern]
        yield _noise_plot(own, task, pattern)
        if own[0].maps.shares:
            yield _maps_plot(own, task, pattern)


def _noise_plot(rows: Sequence[Row], task: str, pattern: str) -> Plot:
    lines = _by_point(rows)

    def draw(figure: Figure) -> None:
        snr, ratio, cosine = figure.subplots(3, 1, sharex=True)
        for label, (colour, own) in lines.items():
            snr.plot([], [], color=colour, label=label)
            for name, read in _SNR.items():
                _draw_estimates(snr, own, [read(row) for row in own], colour, *_STYLES[name])
            _draw_estimates(ratio, own, [row.compared.noise_ratio for row in own], colour)
            _draw_estimates(cosine, own, [row.compared.cosine for row in own], colour)
        for name, (dash, marker) in _STYLES.items():
            snr.plot([], [], color=INK, linestyle=dash, marker=marker, label=name)
        snr.set(ylabel="SNR")
        ratio.set(ylabel="noise, relative\nto DropKey")
        _use_logarithm(snr)
        _use_logarithm(ratio)
        cosine.set(ylabel="cosine of the\nmean gradients", xlabel="dropout rate")
        for axes in (ratio, cosine):
            axes.axhline(1, color=INK, linewidth=0.8)
        add_legend(figure, snr)

    return Plot(
        name=f"gradient_noise_{pattern}",
        kind="analysis",
        task=task,
        title=f"{task}, {pattern}: noise and bias of LoRA's gradients",
        caption=(
            "All LoRA matrices together, equal masks. Top: squared norm of the expected loss's"
            " gradient over the mean squared error of the gradient under one mask. Middle: trace of"
            " its covariance under DropAttention relative to DropKey. Bottom: cosine between the"
            " mean gradients of the two, of which DropKey's is the expected loss's. Bars: 95 %"
            " intervals over the masks. At step 0 only the B matrices have a gradient."
        ),
        alt=_alt(rows, "SNR of DropKey and DropAttention", _both_snr),
        height=3 * _PANEL + legend_height([*lines, *_STYLES]),
        draw=draw,
    )


def _maps_plot(rows: Sequence[Row], task: str, pattern: str) -> Plot:
    lines = _by_point(rows)

    def draw(figure: Figure) -> None:
        share, ratio = figure.subplots(2, 1, sharex=True)
        for label, (colour, own) in lines.items():
            rates = [row.rate for row in own]
            share.plot(rates, [_share(row) for row in own], color=colour, marker="o", label=label)
            for quantile, dash in (("0.5", "-"), ("0.05", ":")):
                values = [(row.maps.k_attended or {}).get(quantile) for row in own]
                ratio.plot(rates, values, color=colour, linestyle=dash, marker="o")
        _, last = list(lines.values())[-1]
        dropped = [row.maps.dropped for row in last]
        share.plot([row.rate for row in last], dropped, color=INK, linestyle="--", label=_DROPPED)
        share.set(ylabel="gradient on\ndropped keys", ylim=(0, None))
        ratio.set(ylabel="k", ylim=(0, 1), xlabel="dropout rate")
        add_legend(figure, share)

    return Plot(
        name=f"gradient_maps_{pattern}",
        kind="analysis",
        task=task,
        title=f"{task}, {pattern}: gradients to attention's logits",
        caption=(
            "Top: DropAttention's share of the absolute gradient to the logits that lies on dropped"
            " keys; DropKey's is 0. Bottom: k of equation 10, DropKey's derivative over"
            " DropAttention's, each kept key weighing as much as the attention that it gets: median"
            " (full) and 5 % quantile (dotted)."
        ),
        alt=_alt(rows, "Share on dropped keys", lambda row: number(_share(row))),
        height=2 * _PANEL + legend_height([*lines, _DROPPED]),
        draw=draw,
    )


def _by_point(rows: Sequence[Row]) -> dict[str, tuple[str, list[Row]]]:
    """Return the lines of a panel by label: their colour, and their rows by rising rate."""
    by_step: dict[int, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.rate):
        by_step[row.point.step].append(row)
    return {
        f"step {step}": (colour, by_step[step])
        for step, colour in zip(sorted(by_step), cycle(COLOURS), strict=False)
    }


def _use_logarithm(axes: Axes) -> None:
    """Scale the ordinate by logarithms, with plain numbers at it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_estimates(
    axes: Axes,
    rows: Sequence[Row],
    estimates: Sequence[Estimate],
    colour: str,
    dash: str = "-",
    marker: str = "o",
) -> None:
    known = [
        (row.rate, found.value, found.value - found.low, found.high - found.value)
        for row, found in zip(rows, estimates, strict=True)
        if found.value is not None and found.low is not None and found.high is not None
    ]
    if known:
        rates, values, below, above = zip(*known, strict=True)
        axes.errorbar(
            rates, values, (below, above), color=colour, linestyle=dash, marker=marker,
            elinewidth=0.8,
        )  # fmt: skip


def _share(row: Row) -> float | None:
    """DropAttention's share of the gradient that lies on dropped keys."""
    return row.maps.shares["dropattention"].absolute


def _both_snr(row: Row) -> str:
    return " and ".join(number(read(row).value) for read in _SNR.values())


def _alt(rows: Sequence[Row], what: str, said: Callable[[Row], str]) -> str:
    parts = [f"step {row.point.step}, rate {row.rate:g}: {said(row)}" for row in rows]
    return f"Lines over the dropout rate. {what}: {'; '.join(parts)}."
