"""What is used at inference, the fourth axis: the rules as data, and their equations.

Training gives trainable weights w_1 … w_T, one for each optimiser step. Whatever is made of them is
fixed before the first prediction, so inference costs what it costs without.

- ``last``: w_T.
- ``average``: mean over the last n = max(1, round(part · T)) steps, (1/n) Σ_{t > T − n} w_t
  (stochastic weight averaging, arXiv 1803.05407, there of the last quarter).
- ``ema``: Σ_t d^(T − t) w_t / Σ_t d^(T − t), all steps, the newest the heaviest. The divisor is the
  bias correction of arXiv 1412.6980, section 3: the first weights count no more than others.
- ``scale``: W_0 + f (W − W_0), the update of the frozen weights shrunk (WiSE-FT, arXiv 2109.01903,
  equation 1). With W − W_0 = s·BA it is LoRA's B times f: :mod:`hiddenkey.step.scaling`.
- ``temperature``: softmax(z / τ), with the τ that minimises the cross-entropy of held-out labels
  (arXiv 1706.04599, section 4.2). Predicted classes stay.

Both means are running ones, m ← m + c_n (w − m) with n weights counted: c_n = 1/n for ``average``
and (1 − d) / (1 − d^n) for ``ema``. So either starts with c_1 = 1, the first weights themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from hiddenkey.errors import ConfigError, is_number, is_one_of, not_one_of


@dataclass(frozen=True)
class Rule:
    """An entry of the axis.

    Attributes:
        changes: what it changes: ``weights`` or ``predictions``.
        summary: what is used, in one line.
        paper: where it comes from; empty for doing nothing.
    """

    changes: str
    summary: str
    paper: str = ""


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "last": Rule("weights", "weights of the last step"),
        "average": Rule("weights", "mean of the last part of the training", "arXiv 1803.05407"),
        "ema": Rule("weights", "exponential mean of all steps", "arXiv 1412.6980"),
        "scale": Rule("weights", "the adapter's update times a factor", "arXiv 2109.01903"),
        "temperature": Rule("predictions", "logits divided by a number", "arXiv 1706.04599"),
    }
)

MEANS = ("last", "average", "ema")
"""Rules that need nothing but the training itself."""

_HOTTEST = 20.0
_HALVINGS = 60


@dataclass(frozen=True)
class Inference:
    """Which weights are used at inference.

    Raises:
        ConfigError: on construction, with every fault.

    Attributes:
        weights: ``last``, ``average`` or ``ema``.
        part: of the training that ``average`` takes, in (0, 1]. Half of it lowered the loss of
            models that had overfitted, and cost those that had not the least.
        decay: of ``ema`` a step, in (0, 1); 0.99 looks back about 100 steps.
    """

    weights: str = "last"
    part: float = 0.5
    decay: float = 0.99

    def __post_init__(self) -> None:
        faults = []
        if not is_one_of(self.weights, MEANS):
            faults.append(not_one_of("inference", self.weights, MEANS))
        if not (is_number(self.part) and 0 < self.part <= 1):
            faults.append(
                f"the part of an average must be in (0, 1], got {self.part!r}; 0.5 is the last half"
                " of the training"
            )
        if not (is_number(self.decay) and 0 < self.decay < 1):
            faults.append(
                f"the decay of an ema must be in (0, 1), got {self.decay!r}; 0.99 looks back about"
                " 100 steps"
            )
        if faults:
            raise ConfigError(faults)

    def first(self, steps: int | None) -> int:
        """Return the first step whose weights count; the first of all is 1.

        Args:
            steps: of the whole training; ``None`` where nobody knows.

        Raises:
            ConfigError: if an average of a part has no number of steps.
        """
        if self.weights != "average" or self.part == 1:
            return 1
        if steps is None or steps < 1:
            raise ConfigError(
                f"the mean of the last part of a training needs its number of steps, got {steps!r};"
                " give steps, or take 'ema' or part=1"
            )
        return steps - max(1, round(self.part * steps)) + 1

    def share(self, counted: int) -> float:
        """Return c_n, the share of the newest weights in the mean of n = ``counted`` weights."""
        if self.weights == "average":
            return 1 / counted
        return (1 - self.decay) / (1 - self.decay**counted)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature of least cross-entropy, in [1/20, 20].

    The cross-entropy is convex in 1/τ: halving an interval finds where its slope is 0. Where every
    label has the largest logit of its row, no τ is the best one, and 1 is returned.

    Args:
        logits: ``[examples, classes]``.
        labels: ``[examples]``, classes from 0.

    Raises:
        ConfigError: if there are no examples, fewer than two classes, labels that are no class, or
            logits that are no finite number.
    """
    if fault := _unfit(logits, labels):
        raise ConfigError(f"a temperature {fault}")
    wide = logits.detach().double()
    wide = wide - wide.amax(-1, keepdim=True)
    own = wide.gather(-1, labels.long().unsqueeze(-1)).squeeze(-1)
    if not own.any():
        return 1.0

    def slope(cooling: float) -> float:
        return float(((wide * cooling).softmax(-1).mul(wide).sum(-1) - own).mean())

    low, high = -math.log(_HOTTEST), math.log(_HOTTEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(math.exp(middle)) > 0 else (middle, high)
    return math.exp(-(low + high) / 2)


def _unfit(logits: Tensor, labels: Tensor) -> str:
    if logits.ndim != 2 or logits.shape[-1] < 2:
        return (
            f"is for logits [examples, classes] of two classes or more, got {list(logits.shape)};"
            " leave it out for regression"
        )
    if not len(logits) or labels.shape != logits.shape[:1]:
        return (
            "needs a held-out label for each row of logits, at least one, got"
            f" {list(labels.shape)} labels for {len(logits)} rows; hold examples out"
        )
    if labels.is_floating_point() or labels.min() < 0 or labels.max() >= logits.shape[-1]:
        return f"needs labels from 0 to {logits.shape[-1] - 1}, got others; leave those rows out"
    if not logits.isfinite().all():
        return "needs logits that are finite numbers, got others; the training has diverged"
    return ""
