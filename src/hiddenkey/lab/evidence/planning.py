"""What planned pairs of runs can show, estimated before the runs by the rule of inference.

All of it rests on normal differences and on their standard deviation, which must come from earlier
runs or be assumed.
"""

from __future__ import annotations

import dataclasses
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
        level: accepted share of false alarms over the family, both directions together.
    """

    pairs: int
    deviation: float
    tasks: int = 1
    family: int = 1
    level: float = LEVEL

    @property
    def error(self) -> float:
        """Standard error of the mean difference."""
        return self.deviation / math.sqrt(self.tasks * self.pairs)

    @property
    def critical(self) -> float:
        """The t that the first comparison must pass, before any other is rejected."""
        return critical(self.pairs - 1, self.level / self.family / 2)

    def half_width(self) -> float:
        """Expected half width of the interval; infinite below three pairs."""
        free = self.pairs - 1
        if self.pairs < FEWEST:
            return math.inf
        # the expected standard deviation of a few normal values is below that of all
        shrunk = math.exp(math.lgamma((free + 1) / 2) - math.lgamma(free / 2)) * math.sqrt(2 / free)
        return self.critical * self.error * shrunk

    def power(self, difference: float) -> float:
        """Chance that a difference of this size is shown."""
        from scipy import special

        if self.pairs < FEWEST:
            return 0.0
        if self.error == 0:
            return float(difference > 0)
        return 1 - float(special.nctdtr(self.pairs - 1, difference / self.error, self.critical))

    def equivalence(self, margin: float) -> float:
        """Chance that no difference at all is shown to be smaller than the margin.

        Both one-sided tests must reject. Given the sample's deviation s the mean must lie within
        margin − t · s / √n; the chance of that is averaged over the distribution of s.
        """
        import numpy as np
        from scipy import special

        free = self.pairs - 1
        if self.pairs < FEWEST:
            return 0.0
        if self.error == 0:
            return float(margin > 0)
        shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        spread = np.sqrt(2 * special.gammaincinv(free / 2, shares) / free)
        room = margin / self.error - self.critical * spread
        return float(np.mean(np.maximum(0.0, 2 * special.ndtr(room) - 1)))

    def detectable(self, chance: float = POWER) -> float:
        """Smallest difference that is shown with the chance; infinite below three pairs."""
        from scipy import optimize

        if self.pairs < FEWEST:
            return math.inf
        if self.error == 0:
            return 0.0
        top = 4 * self.critical + 10  # in standard errors, far above 80 %
        found = optimize.brentq(lambda size: self.power(size * self.error) - chance, 0.0, top)
        return float(found) * self.error

    def pairs_needed(self, difference: float, chance: float = POWER) -> int | None:
        """Fewest pairs that show a difference with the chance; ``None`` above :data:`MOST`."""
        return self._fewest(lambda design: design.power(difference) >= chance)

    def pairs_to_narrow(self, width: float) -> int | None:
        """Fewest pairs whose half width is expected to be ``width`` at most, as above."""
        return self._fewest(lambda design: design.half_width() <= width)

    def _fewest(self, enough: Callable[[Design], bool]) -> int | None:
        """Return the fewest pairs that are enough; more never harm."""
        low, high = FEWEST, MOST + 1
        while low < high:
            middle = (low + high) // 2
            if enough(dataclasses.replace(self, pairs=middle)):
                high = middle
            else:
                low = middle + 1
        return low if low <= MOST else None
