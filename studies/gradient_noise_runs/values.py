"""What one training run says at one point, in numbers that may be averaged over runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradient_noise.measurement import EXTRA, METHODS, Setting
from gradient_noise.moments import pool
from hiddenkey.lab.evidence.inference import Estimate, Ratio


@dataclass(frozen=True)
class PointValues:
    """One point of one training run, over all LoRA matrices and batches.

    Nothing is cut off at 0: late in training an estimate of a squared bias may be negative, and
    only so are means over runs free of bias.

    Attributes:
        step: the step after which the weights were so.
        share: of the training steps.
        loss: without noise, on the batches.
        dropkey_noise: tr Cov g over the masks under DropKey.
        dropattention_noise: the same under DropAttention.
        bias_over_noise: ‖E d − E k‖² / tr Cov k, with d and k the gradients under DropAttention and
            DropKey; its reciprocal is over how many masks DropKey's noise averages down to it.
        on_dropped: DropAttention's share of the absolute gradient to the logits on dropped keys.
        mask_over_batch: tr Cov k over the variance between batches.
    """

    step: int
    share: float
    loss: float
    dropkey_noise: float
    dropattention_noise: float
    bias_over_noise: float
    on_dropped: float | None
    mask_over_batch: float | None


def values_of(setting: Setting) -> PointValues:
    """Sum up one setting of the study of gradient noise."""
    key, attention, extra = (
        pool(part for batch in setting.moments[name] for part in batch.values())
        for name in (*METHODS, EXTRA)
    )
    noise = key.noise[0].item()
    between = sum(setting.point.between_batches.values()) * len(setting.moments[EXTRA])
    share = setting.maps.shares.get("dropattention")
    return PointValues(
        step=setting.point.step,
        share=setting.point.share,
        loss=setting.point.loss,
        dropkey_noise=noise,
        dropattention_noise=attention.noise[0].item(),
        bias_over_noise=extra.signal[0].item() / noise,
        on_dropped=None if share is None else share.absolute,
        mask_over_batch=noise / between if between else None,
    )


@dataclass(frozen=True)
class OverSeeds:
    """One point over the training runs of a task and model, by the one rule of inference.

    Attributes:
        noise_ratio: DropAttention's noise over DropKey's.
        bias_over_noise: see :class:`PointValues`.
        on_dropped: likewise; ``None`` if a run has none.
        mask_over_batch: likewise.
    """

    noise_ratio: Ratio
    bias_over_noise: Estimate
    on_dropped: Estimate | None
    mask_over_batch: Estimate | None


def over_seeds(runs: Sequence[PointValues]) -> OverSeeds:
    """Estimate the means over training runs, one value of each."""
    return OverSeeds(
        Ratio.of([r.dropattention_noise for r in runs], [r.dropkey_noise for r in runs]),
        Estimate.of([r.bias_over_noise for r in runs], resolution=0),
        _mean([r.on_dropped for r in runs]),
        _mean([r.mask_over_batch for r in runs]),
    )


def _mean(values: Sequence[Any]) -> Estimate | None:
    return None if None in values else Estimate.of(values, resolution=0)
