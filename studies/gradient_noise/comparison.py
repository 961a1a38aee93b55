"""DropAttention's gradient against DropKey's, from the moments of both and of their difference.

Under equal masks both methods compute the same loss. DropKey's gradient is the gradient of that
loss, so its mean is the gradient of the expected loss, which either method seems to minimise.
DropAttention's mean is another vector: what it adds has a mean (a bias that more masks or larger
batches do not remove) and a variance (noise that they do).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from gradient_noise.measurement import EXTRA, METHODS, Setting
from gradient_noise.moments import Estimate, Moments, jackknife, pool

Value = TypeVar("Value")


@dataclass(frozen=True)
class MethodNoise:
    """One method's gradient, g, beside the one without noise, g₀.

    Attributes:
        snr: ‖E g‖² / tr Cov g.
        cosine: between E g and g₀.
        distance: ‖E g − g₀‖ / ‖g₀‖.
        of_batch_noise: tr Cov g relative to the variance of g₀ between the batches.
    """

    snr: Estimate
    cosine: Estimate
    distance: Estimate
    of_batch_noise: float | None


@dataclass(frozen=True)
class Comparison:
    """Two methods under equal masks; k is DropKey's gradient, d is DropAttention's.

    Attributes:
        methods: by method.
        noise_ratio: tr Cov d / tr Cov k.
        cosine: between E d and E k.
        bias: ‖E d − E k‖ / ‖E k‖.
        loss_snr: ‖E k‖² / E ‖d − E k‖²: how well DropAttention's gradient estimates that of the
            expected loss; for DropKey this is its own ``snr``.
    """

    methods: Mapping[str, MethodNoise]
    noise_ratio: Estimate
    cosine: Estimate
    bias: Estimate
    loss_snr: Estimate


def compare(setting: Setting, chosen: Callable[[str], bool] = lambda _: True) -> Comparison:
    """Compare the methods over all batches and over the matrices whose names are chosen."""
    pooled = {
        name: pool(part for batch in batches for part in _chosen(batch, chosen))
        for name, batches in setting.moments.items()
    }
    key, attention, extra = (pooled[name] for name in (*METHODS, EXTRA))
    inner = (attention.signal + key.signal - extra.signal) / 2
    batch_noise = sum(_chosen(setting.point.between_batches, chosen)) * len(setting.moments[EXTRA])
    return Comparison(
        methods={name: _method(pooled[name], batch_noise) for name in METHODS},
        noise_ratio=jackknife(attention.noise / key.noise),
        cosine=jackknife(inner / (attention.signal * key.signal).sqrt()),
        bias=jackknife((extra.signal.clamp_min(0) / key.signal).sqrt()),
        loss_snr=jackknife(key.signal / (attention.noise + extra.signal)),
    )


def _method(moments: Moments, batch_noise: float) -> MethodNoise:
    return MethodNoise(
        snr=jackknife(moments.snr),
        cosine=jackknife(moments.cosine),
        distance=jackknife(moments.distance),
        of_batch_noise=moments.noise[0].item() / batch_noise if batch_noise else None,
    )


def _chosen(by_matrix: Mapping[str, Value], chosen: Callable[[str], bool]) -> Iterator[Value]:
    return (value for name, value in by_matrix.items() if chosen(name))
