"""Two methods on the same seeds: the difference and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hiddenkey.lab.evidence.statistics.describe import CONFIDENCE
from hiddenkey.lab.evidence.statistics.values import Array, accepted, finite, grid, on_grid
from hiddenkey.lab.evidence.statistics.verdict import DRAWS, EXACT, PairedComparison, judged


def compare_paired(
    ours: Sequence[float],
    baseline: Sequence[float],
    *,
    larger_is_better: bool = True,
    level: float = 0.05,
) -> PairedComparison:
    """Compare one setting with the baseline on the same seeds.

    The test is the paired permutation test of the mean difference: if the methods do not differ,
    each difference could as well have had the other sign. With up to 11 pairs all sign changes are
    tried, so the p-value is exact for any distribution and with any ties; beyond, 4,095 random ones
    with a fixed seed, whose p-value is valid as well. Wilcoxon's signed-rank test is not used: it
    reaches no smaller p on few pairs, it forgets how large the differences are, and with ties and
    zeros, which accuracies on small sets are full of, its exact distribution is lost.

    The interval is Student's t, not a bootstrap's, which is far too narrow for a few differences
    (see :func:`~hiddenkey.lab.evidence.statistics.describe`). It assumes that differences are
    roughly normal, the test does not, so one outlier can make them disagree; the note says when
    they do.

    Pairs that differ by less than about 1e-10 of the largest value are ties.

    Args:
        ours: one value per seed.
        baseline: the baseline's values, of the same seeds in the same order.
        larger_is_better: ``False`` for losses and times.
        level: share of false alarms that is accepted, between 0 and 1.

    Raises:
        ValueError: if the lengths differ, there are no pairs, a value is missing or not finite, or
            the level is no share.
    """
    import numpy as np

    own, base = finite(ours, "ours"), finite(baseline, "baseline")
    if len(own) != len(base):
        raise ValueError(
            f"paired values must be of the same seeds, got {len(own)} of ours and {len(base)} of"
            " the baseline; keep the seeds that both have"
        )
    exponent = grid(own, base)
    steps = _steps(np.asarray(own) - np.asarray(base), exponent)
    up, down = int(np.sum(steps > 0)), int(np.sum(steps < 0))
    # one order and one side for all that is drawn at random or summed: neither the order of the
    # seeds nor which of the two is called the baseline may matter
    side = 1 if list(np.sort(steps)) >= list(np.sort(-steps)) else -1
    steps = np.sort(side * steps)
    mean, reach = side * float(np.mean(steps)) + 0.0, _reach(steps)  # the zero: never -0.0
    found = PairedComparison(
        count=len(own),
        difference=math.ldexp(mean, -exponent),
        low=None if reach is None else math.ldexp(mean - reach, -exponent),
        high=None if reach is None else math.ldexp(mean + reach, -exponent),
        p_value=_p_value(steps),
        test=_test(len(own)),
        effect_size=_effect_size(side, steps),
        wins=up if larger_is_better else down,
        ties=len(own) - up - down,
        losses=down if larger_is_better else up,
        p_adjusted=None,
        verdict="no clear difference",
        note=None,
        larger_is_better=larger_is_better,
    )
    return judged(found, level=accepted(level), reachable=found.smallest_p, family=1)


def _steps(differences: Array, exponent: int) -> Array:
    """Return the differences in steps of the grid, free of what only rounding did to them.

    They are not rounded to the grid, since rounded parts would no longer sum up to a rounded whole.
    But ties are 0, and differences that are all the same step are all the same number.
    """
    import numpy as np

    rounded = on_grid(differences, exponent)
    steps = np.where(rounded == 0, 0.0, np.ldexp(differences, exponent))
    return np.full_like(steps, np.median(steps)) if np.ptp(rounded) == 0 else steps


def _test(count: int) -> str:
    if count <= EXACT:
        return "exact paired permutation test"
    return f"paired permutation test ({DRAWS:,} random sign changes)"


def _p_value(steps: Array) -> float:
    import numpy as np
    from scipy import stats

    def total(signed: Array, axis: int) -> Array:
        """Sum to whole steps, so that sums that are equal up to rounding tie."""
        return np.asarray(np.rint(np.sum(signed, axis=axis)))

    if len(steps) == 1:
        return 1.0
    found = stats.permutation_test(
        (steps,),
        total,
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**EXACT if len(steps) <= EXACT else DRAWS,
        rng=0,
    )
    return float(found.pvalue)


def _reach(steps: Array) -> float | None:
    """Return half the width of Student's t interval of the mean."""
    import numpy as np
    from scipy import stats

    if len(steps) < 2:
        return None
    if np.ptp(steps) == 0:
        return 0.0
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(steps) - 1)
    return float(quantile * stats.sem(steps))


def _effect_size(side: int, steps: Array) -> float | None:
    """Mean over standard deviation, times the factor that makes it unbiased (Hedges 1981)."""
    import numpy as np
    from scipy.special import gammaln

    free = len(steps) - 1
    if free < 2 or np.ptp(steps) == 0:
        return None
    factor = math.exp(gammaln(free / 2) - gammaln((free - 1) / 2)) / math.sqrt(free / 2)
    return float(side * np.mean(steps) / np.std(steps, ddof=1) * factor)
