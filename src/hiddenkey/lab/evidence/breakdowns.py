"""Runs that broke down: at their end they had lost what the others of their kind had learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

from hiddenkey.lab.evidence.inference import FEWEST

LEAST_FALL: Final = 0.2
"""Least fall below the median that is called a breakdown, as a share: 20 percentage points."""

_DEVIATIONS: Final = 3
_NORMAL: Final = 1.4826
"""By it the median absolute deviation of normal values becomes their standard deviation."""


@dataclass(frozen=True)
class Breakdown:
    """A run that ended far below its configuration's others, on what it was trained on.

    Attributes:
        seed: of the run.
        value: its main metric on its own training examples, after the last step.
        median: of the same over all runs of the configuration on the task.
    """

    seed: int
    value: float
    median: float


def find_breakdowns(values: Mapping[int, float], unit: float = 1.0) -> tuple[Breakdown, ...]:
    """Return the runs of one configuration on one task that broke down, by their training metric.

    They are at least :data:`LEAST_FALL` below the median, and three standard deviations. The latter
    comes from the median absolute deviation, which the runs that are looked for do not widen
    (Leys et al., *Detecting outliers*, Journal of Experimental Social Psychology 49, 2013). It is a
    description: such a run counts like any other.

    Args:
        values: main metric on the training examples by seed, larger being better.
        unit: what the metric counts as 1; 100 for percentage points.
    """
    if len(values) < FEWEST:
        return ()
    middle = median(values.values())
    scatter = _NORMAL * median(abs(value - middle) for value in values.values())
    fall = max(LEAST_FALL * unit, _DEVIATIONS * scatter)
    return tuple(
        Breakdown(seed, value, middle)
        for seed, value in sorted(values.items())
        if middle - value >= fall
    )
