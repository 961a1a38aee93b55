"""What a paired comparison holds, and what may be said of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final, Literal

from hiddenkey.lab.evidence.statistics.describe import CONFIDENCE

Verdict = Literal["better", "worse", "no clear difference", "weak evidence"]

EFFECT_SIZE: Final = "Hedges' g of the paired differences"
"""Name of the effect size."""

EXACT: Final = 11
"""Most pairs of which all 2**pairs sign changes are tried."""

DRAWS: Final = 4095
"""Random sign changes tried for more pairs: fewer than these have, or scipy would try them all."""


@dataclass(frozen=True)
class PairedComparison:
    """One setting against the baseline, pair by pair.

    Difference, interval and effect size are ours minus the baseline's, whichever direction is
    better; wins, losses and the verdict know the direction.

    Attributes:
        count: number of pairs.
        difference: mean of the differences.
        low: lower bound of their mean's 95 % interval (Student's t), ``None`` for a single pair.
            Each interval stands alone: Holm's correction does not widen it.
        high: its upper bound.
        p_value: probability of a mean difference at least this large, in either direction, if
            within each pair the methods were exchangeable.
        test: name of the test.
        effect_size: mean difference over the differences' standard deviation, corrected for few
            pairs (:data:`EFFECT_SIZE`); ``None`` below three pairs or if all differences are equal.
        wins: pairs in which ours is better.
        ties: pairs that are equal up to rounding.
        losses: pairs in which the baseline is better.
        p_adjusted: ``p_value`` after Holm's correction, ``None`` before :func:`adjust_holm`.
        verdict: what may be said. ``weak evidence``: so few pairs (or, after Holm's correction, so
            few for so many comparisons) that no data at all could have shown a difference.
        note: why, and what is odd about the pairs, as sentences, or ``None``.
        larger_is_better: direction of the compared values.
    """

    count: int
    difference: float
    low: float | None
    high: float | None
    p_value: float
    test: str
    effect_size: float | None
    wins: int
    ties: int
    losses: int
    p_adjusted: float | None
    verdict: Verdict
    note: str | None
    larger_is_better: bool = True

    @property
    def smallest_p(self) -> float:
        """The smallest ``p_value`` that this number of pairs can give."""
        return smallest_p_of(self.count)


def judged(
    comparison: PairedComparison, *, level: float, reachable: float, family: int
) -> PairedComparison:
    """Fill in verdict and note; ``reachable`` is the smallest p that the plan can give."""
    p = comparison.p_value if comparison.p_adjusted is None else comparison.p_adjusted
    verdict: Verdict
    if p <= level:
        verdict = (
            "better" if (comparison.difference > 0) == comparison.larger_is_better else "worse"
        )
    else:
        verdict = "weak evidence" if reachable > level else "no clear difference"
    notes = [_weak(comparison, level, reachable, family)] if verdict == "weak evidence" else []
    notes += _oddities(comparison)
    return dataclasses.replace(comparison, verdict=verdict, note=" ".join(notes) or None)


def _weak(comparison: PairedComparison, level: float, reachable: float, family: int) -> str:
    pairs = "1 pair is" if comparison.count == 1 else f"{comparison.count} pairs are"
    among = f" for {family} comparisons together" if family > 1 else ""
    after = " after Holm's correction" if family > 1 else ""
    needed = (pairs for pairs in range(2, EXACT + 2) if family * smallest_p_of(pairs) <= level)
    enough = next(needed, None)
    advice = "fewer comparisons are" if enough is None else f"at least {enough} pairs are"
    return (
        f"{pairs} too few{among}: even if every pair agreed, p{after} would be {reachable:.3g};"
        f" {advice} needed to reach {level:g}."
    )


def _oddities(comparison: PairedComparison) -> list[str]:
    low, high, count = comparison.low, comparison.high, comparison.count
    if low is None or high is None:
        return []
    if low == high:
        return [f"All {count} differences are equal, so nothing shows how far they would vary."]
    alarms = 1 - CONFIDENCE
    differs = comparison.p_value <= alarms
    if comparison.smallest_p <= alarms and differs == (low <= 0 <= high):
        return [
            "Test and interval disagree on whether the difference can be zero; look at the single"
            " pairs."
        ]
    return []


def smallest_p_of(count: int) -> float:
    """Return p of differences that all have one sign; random draws count at least themselves."""
    return max(2.0 ** (1 - count), 2 / (DRAWS + 1))
