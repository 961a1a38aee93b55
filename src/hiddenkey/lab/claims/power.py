"""What a plan can show, reckoned before the runs from the noise of earlier ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from hiddenkey.lab.claims.findings import Power
from hiddenkey.lab.claims.plan import Claim, Contrast, Scale
from hiddenkey.lab.claims.rule import LEAST, LEVEL

_IN_POINTS: Final = ("metric", "best", "gap")
"""Measures that the known deviation, in points, is taken to hold for."""

_MOST: Final = 1000
"""Seeds beyond which nobody asks how many are needed."""

_QUANTILES: Final = 200
"""Values of a sample's deviation that the power of an equivalence test is averaged over."""


def reckon(claim: Claim, scale: Scale) -> tuple[Power, ...]:
    """Reckon what a claim's contrasts could show at a scale.

    ``scale.scatter`` has the standard deviation σ of a paired difference between two arms on one
    task. With arms whose values vary alike and independently once the seed's common part has
    cancelled, a contrast with weights w varies by

        σ · √(Σ w² / 2),

    and the mean over k tasks by √k less. The chances follow from the noncentral t distribution.
    They are of one question by itself; a claim that needs several is decided less often. Contrasts
    that are not in points, or expect a range, have none.
    """
    tasks = len(claim.tasks) if claim.scope == "pooled" else 1
    return tuple(
        Power(
            contrast=contrast.name,
            seeds=len(scale.seeds),
            tasks=tasks,
            half_width=design.half_width(),
            detects=design.detects(),
            excludes=design.excludes(),
        )
        for contrast in claim.contrasts
        if tasks and (design := _design(contrast, scale, len(scale.seeds), tasks))
    )


def seeds_needed(
    contrast: Contrast, scale: Scale, tasks: int = 1, chance: float = 0.8
) -> int | None:
    """Return the fewest seeds that detect an effect as large as the margin with a chance.

    Args:
        contrast: the question.
        scale: where the noise is known from.
        tasks: number of tasks that the effect is a mean over.
        chance: the chance asked for, below 1.

    Returns:
        The number of seeds; ``None`` for a contrast without a reckoning (:func:`reckon`), and where
        more than 1,000 are needed.
    """
    for seeds in range(LEAST, _MOST + 1):
        design = _design(contrast, scale, seeds, tasks)
        if design and design.detects() >= chance:
            return seeds
    return None


@dataclass(frozen=True)
class _Design:
    """A test to be made.

    Attributes:
        seeds: number of values.
        deviation: their standard deviation.
        margin: the effect to be told from 0.
        both_ways: whether it may lie on either side of 0.
    """

    seeds: int
    deviation: float
    margin: float
    both_ways: bool

    @property
    def shift(self) -> float:
        """The margin in standard errors of the mean."""
        return self.margin / self.deviation * math.sqrt(self.seeds)

    def half_width(self) -> float:
        """Expected half width of the 95 % interval; infinite for a single value."""
        from scipy import special

        free = self.seeds - 1
        if free < 1:
            return math.inf
        # the expected standard deviation of a few normal values is below that of all
        shrunk = math.exp(special.gammaln((free + 1) / 2) - special.gammaln(free / 2))
        expected = self.deviation * shrunk * math.sqrt(2 / free)
        return _critical(free, LEVEL) * expected / math.sqrt(self.seeds)

    def detects(self) -> float:
        """Chance that an effect as large as the margin is told from 0."""
        from scipy import special

        free = self.seeds - 1
        if self.seeds < LEAST:
            return 0.0
        critical = _critical(free, LEVEL / 2 if self.both_ways else LEVEL)
        return 1 - float(special.nctdtr(free, self.shift, critical))

    def excludes(self) -> float:
        """Chance that an effect of 0 is shown to be smaller than the margin."""
        # one-sided, 0 is as far from the margin as the margin is from 0
        return self._within() if self.both_ways else self.detects()

    def _within(self) -> float:
        """Chance that both one-sided tests of equivalence reject, given an effect of 0.

        Given the sample's deviation s the mean must lie within margin − t · s / √n; the chance of
        that is averaged over the distribution of s.
        """
        import numpy as np
        from scipy import special

        free = self.seeds - 1
        if self.seeds < LEAST:
            return 0.0
        shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        spread = np.sqrt(2 * special.gammaincinv(free / 2, shares) / free)
        room = self.shift - _critical(free, LEVEL) * spread
        return float(np.mean(np.maximum(0.0, 2 * special.ndtr(room) - 1)))


def _design(contrast: Contrast, scale: Scale, seeds: int, tasks: int) -> _Design | None:
    if contrast.measure not in _IN_POINTS or contrast.expect == "between":
        return None
    squares = math.fsum(weight**2 for weight in contrast.weights.values())
    return _Design(
        seeds=seeds,
        deviation=scale.scatter.deviation * math.sqrt(squares / 2 / tasks),
        margin=contrast.margin,
        both_ways=contrast.expect == "equal",
    )


def _critical(free: int, level: float) -> float:
    from scipy import special

    return float(special.stdtrit(free, 1 - level))
