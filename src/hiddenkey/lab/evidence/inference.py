"""The rule of inference: Student's t on paired differences, and nothing else.

Every interval and every p-value of a difference is formed here, from one estimate and one standard
error, so that they cannot contradict each other: an interval at confidence 1 − p ends exactly at
the value whose p-value is p. ``benchmarks/inference.py`` simulates level, power and coverage, and
``docs/results/inference.md`` has its tables.

Why Student's t: at 3 to 20 seeds it holds 5 % for normal, heavy-tailed and discrete differences.
Exact permutation and Wilcoxon's test cannot fall below 0.0625 with five pairs, whatever the pairs
say. Bootstrap intervals of three values hold the true mean in 72 % of samples instead of 95 %.
Strongly skewed differences are t's limit: they cost it coverage at every small number of seeds.

Several tasks are pooled by seed: a seed's effect is the mean over the tasks, and the seeds are what
is repeated. Seeds that share weights or batches over tasks may be correlated; this holds the level
all the same, which variances added up by task do not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final

LEVEL: Final = 0.05
"""Accepted share of false alarms, both directions together."""

FEWEST: Final = 3
"""Fewest values of which a mean has an interval or a p-value."""

_DIGITS: Final = 12
"""Significant digits of the largest value that differences keep: more than a metric or a float32
loss has, and what float64 loses is far below."""

_FINEST: Final = 1e-4
"""Finest grid that is looked for, as a share of the largest value: finer ones leave no trace."""


@dataclass(frozen=True)
class Estimate:
    """A mean of a few values with its standard error, as Student's t sees them.

    Rounded values vary less than they should where all of them fall on few steps: accuracies on n
    examples are multiples of 1/n. So the variance that rounding to a step r leaves, r²/12, is added
    to the sample's. Values that are all equal show no variation at all. Their standard error is the
    one that gives 0 the p-value of the sign test, 2^(1 − n): fewer than six never exclude 0.

    Attributes:
        count: number of values.
        mean: their mean; NaN of none.
        deviation: their standard deviation (``count - 1`` in the denominator); ``None`` below 2.
        error: standard error of the mean; 0 if all values are 0, or one value stands alone.
    """

    count: int
    mean: float
    deviation: float | None
    error: float

    @classmethod
    def of(cls, values: Sequence[float], resolution: float | None = None) -> Estimate:
        """Estimate a mean; the order of the values does not matter.

        Args:
            values: independent values, such as one difference for each seed.
            resolution: step of the values, such as 1/examples for accuracies, or 0 for values
                without steps; ``None`` reads it off the values.
        """
        count = len(values)
        if count < 2:
            return cls(count, values[0] if values else math.nan, None, 0.0)
        if min(values) == max(values) and not resolution:
            # the standard error with which equal values have the sign test's p
            error = abs(values[0]) / critical(count - 1, 2.0**-count)
            return cls(count, values[0], 0.0, error)
        mean = math.fsum(values) / count
        # unlike a sum of squares, no distance is too large or too small for a float
        deviation = math.dist(values, [mean] * count) / math.sqrt(count - 1)
        step = common_step(values) if resolution is None else resolution
        error = math.hypot(deviation, step / math.sqrt(12)) / math.sqrt(count)
        return cls(count, mean, deviation, error)

    def widened(self, factor: float) -> Estimate:
        """Return the estimate with a larger standard error, for values that share data."""
        return dataclasses.replace(self, error=factor * self.error)

    @property
    def is_constant(self) -> bool:
        """Whether all of several values are equal: nothing shows how far they would vary."""
        return self.count > 1 and self.deviation == 0

    def interval(self, confidence: float = 1 - LEVEL) -> tuple[float, float] | None:
        """Return the interval of the mean; ``None`` below three values.

        Of values that are all 0 it is ``(0, 0)`` where the sign test allows it, else ``None``.
        """
        if self.count < FEWEST:
            return None
        if self.error == 0:
            return (self.mean, self.mean) if 2.0 ** (1 - self.count) <= 1 - confidence else None
        reach = critical(self.count - 1, (1 - confidence) / 2) * self.error
        return self.mean - reach, self.mean + reach

    @property
    def low(self) -> float | None:
        """Lower end of the 95 % interval."""
        return (self.interval() or (None, None))[0]

    @property
    def high(self) -> float | None:
        """Upper end of the 95 % interval."""
        return (self.interval() or (None, None))[1]

    def above(self, threshold: float) -> float:
        """P-value of "the mean is not above the threshold"."""
        return self._beyond(self.mean - threshold)

    def below(self, threshold: float) -> float:
        """P-value of "the mean is not below the threshold"."""
        return self._beyond(threshold - self.mean)

    def within(self, low: float, high: float) -> float:
        """P-value of "the mean is not between low and high": two one-sided tests."""
        return max(self.above(low), self.below(high))

    def outside(self, low: float, high: float) -> float:
        """P-value of "the mean is from low to high"; an infinite end is no side to fail on."""
        sides = [self.below(low)] * math.isfinite(low) + [self.above(high)] * math.isfinite(high)
        return min([1.0, *(len(sides) * side for side in sides)])

    def differs(self, value: float = 0.0) -> float:
        """Two-sided p-value of "the mean is this value"."""
        return self.outside(value, value)

    def _beyond(self, distance: float) -> float:
        """P-value of a mean this far on the right side of a threshold; 1 below three values."""
        from scipy import special

        if self.count < FEWEST:
            return 1.0
        if self.error == 0:
            return 2.0**-self.count if distance > 0 else 1.0
        p = float(special.stdtr(self.count - 1, -distance / self.error))
        # equal values are never surer of any threshold than the sign test is
        return p if self.deviation else max(p, 2.0**-self.count)


@dataclass(frozen=True)
class Ratio:
    """A ratio of positive values, such as times of steps that took turns, on the log scale.

    Attributes:
        logarithm: estimate of the mean logarithm of the ratio.
    """

    logarithm: Estimate

    @classmethod
    def of(cls, ours: Sequence[float], baseline: Sequence[float]) -> Ratio:
        """Estimate ours over the baseline's, pair by pair.

        Raises:
            ValueError: if the lengths differ, or a value is not positive.
        """
        own, base = _paired(ours, baseline)
        if min(*own, *base) <= 0:
            raise ValueError(
                f"a ratio is of positive numbers, got {min(*own, *base)!r}; leave that pair out"
            )
        logs = [math.log(a / b) for a, b in zip(own, base, strict=True)]
        return cls(Estimate.of([round(value, _DIGITS) + 0.0 for value in logs], resolution=0))

    @property
    def value(self) -> float:
        """The geometric mean of the ratios."""
        return math.exp(self.logarithm.mean)

    @property
    def differs(self) -> bool:
        """Whether the 95 % interval excludes 1: only then may it be called a gain or a cost."""
        return excludes(self.interval(), 1.0)

    def interval(self, confidence: float = 1 - LEVEL) -> tuple[float, float] | None:
        """Return the interval of the ratio; ``None`` below three pairs."""
        found = self.logarithm.interval(confidence)
        return None if found is None else (math.exp(found[0]), math.exp(found[1]))


def equal_values_needed(level: float) -> int:
    """Return the fewest equal values to whose mean the sign test gives a p-value of the level."""
    return max(FEWEST, math.ceil(1 - math.log2(level)))


def critical(free: float, alpha: float) -> float:
    """Return the t beyond which a share ``alpha`` lies, on one side."""
    from scipy import special

    return float(special.stdtrit(free, 1 - alpha))


def excludes(interval: tuple[float, float] | None, value: float = 0.0) -> bool:
    """Tell whether an interval excludes a value; no interval excludes nothing."""
    return interval is not None and not interval[0] <= value <= interval[1]


def differences(ours: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """Return ours minus the baseline's, free of what only rounding did to them.

    0.9 − 0.8 and 0.8 − 0.7 differ in their last bits. So differences keep twelve digits of the
    largest value: ties are 0, and equal differences are equal.

    Raises:
        ValueError: if the lengths differ, there are none, or a value is missing or not finite.
    """
    own, base = _paired(ours, baseline)
    largest = max(abs(value) for value in (*own, *base))
    return tidy([a - b for a, b in zip(own, base, strict=True)], largest)


def tidy(values: Sequence[float], largest: float | None = None) -> list[float]:
    """Round to twelve digits of the largest value, that of ``values`` or the one they come from."""
    size = max(abs(value) for value in values) if largest is None else largest
    digits = _DIGITS - math.ceil(math.log10(size)) if size else 0
    return [round(value, digits) + 0.0 for value in values]


def finite(values: Sequence[Any], what: str) -> list[float]:
    """Return the values as floats.

    Raises:
        ValueError: if there are none, or one of them is missing, NaN, infinite or no number.
    """
    bad = [value for value in values if not isinstance(value, Real) or not math.isfinite(value)]
    if bad:
        raise ValueError(
            f"{what} must be finite numbers, got {bad[0]!r}; leave out runs without a value, and"
            " report how many they are"
        )
    if not len(values):
        raise ValueError(f"{what} must hold at least one number, got none; finish a run first")
    return [float(value) for value in values]


def common_step(values: Sequence[float]) -> float:
    """Return the largest step that all values are multiples of; next to 0 if there is none."""
    step = 0.0
    finest = _FINEST * max(abs(value) for value in values)
    for rest in sorted(map(abs, values)):  # their order must not matter
        while rest > finest:  # Euclid's algorithm, with remainders of least size
            step, rest = rest, abs(math.remainder(step, rest))
    return step


def _paired(ours: Sequence[float], baseline: Sequence[float]) -> tuple[list[float], list[float]]:
    own, base = finite(ours, "ours"), finite(baseline, "baseline")
    if len(own) != len(base):
        raise ValueError(
            f"paired values must be of the same seeds, got {len(own)} of ours and {len(base)} of"
            " the baseline; keep the seeds that both have"
        )
    return own, base
