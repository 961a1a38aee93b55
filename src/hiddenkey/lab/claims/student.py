"""Student's t for a few values: the interval of their mean, and one-sided tests of thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hiddenkey.lab.claims.rule import LEAST, LEVEL


@dataclass(frozen=True)
class Sample:
    """What the t-test knows of a few values.

    Values that are all equal are no infinite evidence. The chance that n values all lie beyond a
    threshold is at most 2**-n if the median does not (sign test), and that is their p-value: 0.031
    for 5 of them, so less than 6 conclude nothing. Below three values every p-value is 1.

    Attributes:
        count: number of values.
        mean: their mean.
        error: its standard error; 0 where all values are equal.
    """

    count: int
    mean: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Sum up; sums are exactly rounded, so that the order of the seeds cannot matter."""
        if not values or min(values) == max(values):
            return cls(len(values), values[0] if values else math.nan, 0.0)
        count, mean = len(values), math.fsum(values) / len(values)
        squares = math.fsum((value - mean) ** 2 for value in values)
        return cls(count, mean, math.sqrt(squares / (count - 1) / count))

    def reach(self) -> float | None:
        """Half the width of the 95 % interval."""
        from scipy import special

        if self.count < 2:
            return None
        return float(special.stdtrit(self.count - 1, 1 - LEVEL)) * self.error

    def above(self, threshold: float) -> float:
        """P-value of "not above the threshold"."""
        return self._beyond(self.mean - threshold)

    def below(self, threshold: float) -> float:
        """P-value of "not below the threshold"."""
        return self._beyond(threshold - self.mean)

    def within(self, low: float, high: float) -> float:
        """P-value of "not between low and high"."""
        return max(self.above(low), self.below(high))

    def outside(self, low: float, high: float) -> float:
        """P-value of "from low to high"; an infinite end is no side to fail on."""
        sides = [self.below(low)] * math.isfinite(low) + [self.above(high)] * math.isfinite(high)
        return min(1.0, len(sides) * min(sides, default=1.0))

    def _beyond(self, distance: float) -> float:
        """P-value of a mean this far on the right side of a threshold."""
        from scipy import special

        if self.count < LEAST:
            return 1.0
        if self.error == 0:
            return 2.0**-self.count if distance > 0 else 1.0
        return float(special.stdtr(self.count - 1, -distance / self.error))
