"""What runs over seeds say: a configuration's mean, and its difference to the baseline."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from hiddenkey.lab.evidence.inference import (
    FEWEST,
    LEVEL,
    Estimate,
    differences,
    equal_values_needed,
    excludes,
    finite,
)
from hiddenkey.lab.evidence.planning import Design

Verdict = Literal["better", "worse", "no clear difference", "inconclusive"]
Key = TypeVar("Key", bound=Hashable)

EFFECT_SIZE: Final = "Hedges' g of the paired differences"
"""Name of the effect size."""

MARGIN: Final = 0.01
"""Smallest difference of interest: one percentage point, or 1 % of a value above 1."""


def describe(values: Sequence[float]) -> Estimate:
    """Estimate the mean of one configuration's values over its seeds.

    Raises:
        ValueError: if there are no values, or one is missing or not finite.
    """
    known = finite(values, "values")
    # counted from the smallest value, since the steps of values need not begin at 0
    found = Estimate.of(differences(known, [min(known)] * len(known)))
    return dataclasses.replace(found, mean=statistics.mean(known))  # exact, unlike a sum of floats


@dataclass(frozen=True)
class PairedComparison:
    """One configuration against the baseline, pair by pair.

    Difference, interval and effect size are ours minus the baseline's, whichever direction is
    better; wins, losses and the verdict know the direction.

    Attributes:
        estimate: of the mean difference.
        confidence: that of the interval: 0.95, and more in a family (:func:`adjust_holm`).
        margin: the smallest difference of interest.
        wins: pairs in which ours is better.
        ties: pairs that are equal up to rounding.
        losses: pairs in which the baseline is better.
        larger_is_better: direction of the compared values.
        step: smallest step of the compared values, such as 1/evaluation examples; 0: none is known.
        p_adjusted: ``p_value`` after Holm's correction, ``None`` before :func:`adjust_holm`.
        family: number of comparisons that were corrected together.
    """

    estimate: Estimate
    confidence: float
    margin: float
    wins: int
    ties: int
    losses: int
    larger_is_better: bool = True
    step: float = 0.0
    p_adjusted: float | None = None
    family: int = 1

    @property
    def count(self) -> int:
        """Number of pairs."""
        return self.estimate.count

    @property
    def difference(self) -> float:
        """Mean of the differences."""
        return self.estimate.mean

    @property
    def interval(self) -> tuple[float, float] | None:
        """Interval of the mean difference; ``None`` below three pairs."""
        return self.estimate.interval(self.confidence)

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        return None if self.interval is None else self.interval[0]

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        return None if self.interval is None else self.interval[1]

    @property
    def p_value(self) -> float:
        """Two-sided p-value of "no difference", of this comparison alone."""
        return self.estimate.differs()

    @property
    def effect_size(self) -> float | None:
        """Mean difference over the differences' standard deviation, corrected for few pairs.

        The factor makes it unbiased (Hedges 1981). ``None`` below three pairs, and if all
        differences are equal.
        """
        free = self.count - 1
        if free < 2 or not self.estimate.deviation:
            return None
        factor = math.exp(math.lgamma(free / 2) - math.lgamma((free - 1) / 2))
        return self.difference / self.estimate.deviation * factor / math.sqrt(free / 2)

    @property
    def verdict(self) -> Verdict:
        """What the interval says.

        ``better`` or ``worse`` if it excludes 0; else ``no clear difference`` if it lies within the
        margin on both sides of 0, and ``inconclusive`` if it does not, or if :attr:`is_coarse`.
        """
        if excludes(self.interval):
            return "better" if (self.difference > 0) == self.larger_is_better else "worse"
        return "no clear difference" if self._is_small else "inconclusive"

    @property
    def is_coarse(self) -> bool:
        """Whether all pairs are equal, and a difference of the margin could not have been seen."""
        return self.estimate.is_constant and self.step > self.margin

    @property
    def pairs_to_decide(self) -> int | None:
        """Fewest pairs after which the verdict is expected not to be ``inconclusive``.

        An interval of half the margin on each side of its middle excludes 0 or lies within the
        margin, wherever its middle is. ``None`` above :data:`~hiddenkey.lab.evidence.planning.MOST`
        pairs, and below three, which say nothing of the deviation. Equal differences say nothing of
        it either: if all further ones are equal too, the sign test decides.
        """
        if self.count < FEWEST or self.is_coarse:
            return None
        if self.estimate.is_constant:
            return equal_values_needed(1 - self.confidence)
        deviation = self.estimate.error * math.sqrt(self.count)
        design = Design(self.count, deviation, level=1 - self.confidence)
        enough = design.pairs_to_narrow(self.margin / 2)
        return None if enough is None else max(enough, self.count + 1)

    @property
    def _is_small(self) -> bool:
        """Whether the interval lies within the margin."""
        known = self.interval is not None and not self.is_coarse
        return known and max(map(abs, self.interval or ())) < self.margin

    @property
    def note(self) -> str | None:
        """Why the verdict is so, and what is odd about the pairs, as sentences, or ``None``."""
        notes = [self._why_inconclusive()] if self.verdict == "inconclusive" else []
        if self._is_small and self.verdict in ("better", "worse"):
            notes.append(f"The difference is smaller than {self.margin:.3g}, so it hardly matters.")
        if self.count >= FEWEST and self.estimate.is_constant:
            notes.append(
                f"All {self.count} differences are equal, so nothing shows how far they would vary."
            )
        return " ".join(notes) or None

    def _why_inconclusive(self) -> str:
        if self.count < FEWEST:
            have = "is 1" if self.count == 1 else f"are {self.count}"
            return f"{FEWEST} pairs are the fewest that can show anything, here {have}."
        if self.is_coarse:
            return (
                f"On so few evaluation examples the metric moves in steps of {self.step:.3g}, so"
                f" that no difference of {self.margin:.3g} could have been seen."
            )
        if self.estimate.is_constant:
            return f"Equal differences decide nothing below {self.pairs_to_decide} pairs."
        together = f" among {self.family} comparisons" if self.family > 1 else ""
        enough = self.pairs_to_decide
        advice = f"; about {enough} seeds would decide" if enough else ""
        return (
            f"Underpowered{together} with {self.count} seeds: the interval includes 0 and"
            f" differences above {self.margin:.3g}{advice}."
        )


def compare_paired(
    ours: Sequence[float],
    baseline: Sequence[float],
    *,
    larger_is_better: bool = True,
    margin: float | None = None,
    step: float = 0.0,
) -> PairedComparison:
    """Compare one configuration with the baseline on the same seeds, by Student's t.

    Pairs that differ by less than about 1e-12 of the largest value are ties.

    Args:
        ours: one value per seed.
        baseline: the baseline's values, of the same seeds in the same order.
        larger_is_better: ``False`` for losses and times.
        margin: smallest difference of interest; ``None`` takes 0.01, one percentage point, or 1 %
            of the baseline's mean where that is above 1 in size.
        step: smallest step of the values, such as 1/evaluation examples; 0: none is known.

    Raises:
        ValueError: if the lengths differ, there are no pairs, or a value is missing or not finite.
    """
    found = differences(ours, baseline)
    up, down = sum(value > 0 for value in found), sum(value < 0 for value in found)
    if margin is None:
        margin = MARGIN * max(1.0, abs(statistics.fmean(baseline)))
    return PairedComparison(
        estimate=Estimate.of(found),
        confidence=1 - LEVEL,
        margin=margin,
        wins=up if larger_is_better else down,
        ties=len(found) - up - down,
        losses=down if larger_is_better else up,
        larger_is_better=larger_is_better,
        step=step,
    )


def adjust_holm(comparisons: Mapping[Key, PairedComparison]) -> dict[Key, PairedComparison]:
    """Correct comparisons that are read together: p-values, intervals and verdicts.

    Holm's step-down correction: the chance that any of the comparisons is a false alarm is at most
    ``LEVEL``, whatever their dependence; the configurations share a baseline, so they do depend.

    Ordered by p-value, the comparison of rank r among m is tested at LEVEL/(m − r + 1) as long as
    all before it were rejected. Its interval is at that confidence, 1 − LEVEL/(m − r + 1); those
    after the first that is not rejected keep the confidence of that one. So an interval excludes 0
    exactly if the comparison's verdict is a difference.

    Returns:
        The comparisons in the same order, with ``p_adjusted``, ``confidence`` and ``family``.
    """
    family = len(comparisons)
    found: dict[Key, PairedComparison] = {}
    stopped, largest, confidence = False, 0.0, 1 - LEVEL
    for passed, key in enumerate(sorted(comparisons, key=lambda key: comparisons[key].p_value)):
        comparison = comparisons[key]
        largest = max(largest, min(1.0, comparison.p_value * (family - passed)))
        if not stopped:
            confidence = 1 - LEVEL / (family - passed)
        found[key] = dataclasses.replace(
            comparison, p_adjusted=largest, confidence=confidence, family=family
        )
        stopped = stopped or not excludes(found[key].interval)
    return {key: found[key] for key in comparisons}
