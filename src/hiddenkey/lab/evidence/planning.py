"""What planned pairs of runs can show, estimated before the runs by the rule of inference.

All of it rests on the standard deviation of a paired difference, which must come from earlier runs
or be assumed, and on normal differences. ``alpha`` is the level on one side: half of 0.05 for a
two-sided test, divided by the number of comparisons that are read together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hiddenkey.lab.evidence.inference import FEWEST, LEVEL, critical

POWER: Final = 0.8
"""Chance of a verdict that a plan should have for a difference that matters."""

MOST: Final = 1000
"""Pairs beyond which nobody asks how many are needed."""

_QUANTILES: Final = 200
"""Values of a sample's deviation that the chance of an equivalence is averaged over."""


@dataclass(frozen=True)
class Design:
    """A planned comparison.

    Attributes:
        pairs: seeds that both configurations are trained with.
        deviation: expected standard deviation of a seed's difference on one task.
        tasks: tasks that a seed's difference is a mean over; they are taken as independent.
        family: comparisons that are read together and corrected by Holm.
        level: accepted share of false alarms over the family.
    """

    pairs: int
    deviation: float
    tasks: int = 1
    family: int = 1
    level: float = LEVEL

    @property
    def alpha(self) -> float:
        """One-sided level of the first comparison, before any other is rejected."""
        return self.level / self.family / 2

    @property
    def spread(self) -> float:
        """Standard deviation of a seed's difference, averaged over the tasks."""
        return self.deviation / math.sqrt(self.tasks)

    @property
    def smallest_p(self) -> float:
        """Smallest p-value within reach: 1 below three pairs, and no limit from there on."""
        return 1.0 if self.pairs < FEWEST else 0.0

    def half_width(self) -> float:
        """Expected half width of the interval; infinite below three pairs."""
        return half_width(self.pairs, self.spread, self.alpha)

    def power(self, difference: float) -> float:
        """Chance that a difference of this size is shown."""
        return power(self.pairs, self.spread, difference, self.alpha)

    def detectable(self, chance: float = POWER) -> float:
        """Smallest difference that is shown with the chance; infinite below three pairs."""
        if self.pairs < FEWEST:
            return math.inf
        if self.spread == 0:
            return 0.0
        from scipy import optimize

        unit = self.spread / math.sqrt(self.pairs)
        top = critical(self.pairs - 1, self.alpha) * 4 + 10  # in standard errors, far above 80 %
        found = optimize.brentq(lambda shift: self.power(shift * unit) - chance, 0.0, top)
        return float(found) * unit

    def pairs_needed(self, difference: float, chance: float = POWER) -> int | None:
        """Fewest pairs that show a difference with the chance; ``None`` above :data:`MOST`."""
        return fewest(lambda n: power(n, self.spread, difference, self.alpha) >= chance)


def power(pairs: int, deviation: float, difference: float, alpha: float) -> float:
    """Return the chance that a difference of this size is shown, one-sided at ``alpha``."""
    from scipy import special

    if pairs < FEWEST:
        return 0.0
    if deviation == 0:
        return float(difference > 0)
    shift = difference / deviation * math.sqrt(pairs)
    return 1 - float(special.nctdtr(pairs - 1, shift, critical(pairs - 1, alpha)))


def equivalence(pairs: int, deviation: float, margin: float, alpha: float) -> float:
    """Return the chance that no difference at all is shown to be smaller than the margin.

    Both one-sided tests must reject. Given the sample's deviation s the mean must lie within
    margin − t · s / √n; the chance of that is averaged over the distribution of s.
    """
    import numpy as np
    from scipy import special

    free = pairs - 1
    if pairs < FEWEST:
        return 0.0
    if deviation == 0:
        return float(margin > 0)
    shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    spread = np.sqrt(2 * special.gammaincinv(free / 2, shares) / free)
    room = margin / deviation * math.sqrt(pairs) - critical(free, alpha) * spread
    return float(np.mean(np.maximum(0.0, 2 * special.ndtr(room) - 1)))


def half_width(pairs: int, deviation: float, alpha: float) -> float:
    """Return the expected half width of the interval; infinite below three pairs."""
    free = pairs - 1
    if pairs < FEWEST:
        return math.inf
    # the expected standard deviation of a few normal values is below that of all
    shrunk = math.exp(math.lgamma((free + 1) / 2) - math.lgamma(free / 2)) * math.sqrt(2 / free)
    return critical(free, alpha) * deviation * shrunk / math.sqrt(pairs)


def pairs_to_narrow(width: float, deviation: float, level: float = LEVEL) -> int | None:
    """Return the fewest pairs whose interval is expected to reach no further than ``width``.

    Args:
        width: the half width asked for.
        deviation: standard deviation of a seed's difference.
        level: 1 minus the confidence of the interval.
    """
    return fewest(lambda pairs: half_width(pairs, deviation, level / 2) <= width)


def fewest(enough: Callable[[int], bool]) -> int | None:
    """Return the fewest pairs that are enough, ``None`` above :data:`MOST`; more never harm."""
    if not enough(MOST):
        return None
    low, high = FEWEST, MOST
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
