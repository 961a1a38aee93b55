"""Several comparisons read together: Holm's correction."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from hiddenkey.lab.evidence.statistics.values import accepted
from hiddenkey.lab.evidence.statistics.verdict import PairedComparison, judged

Key = TypeVar("Key", bound=Hashable)


def adjust_holm(
    comparisons: Mapping[Key, PairedComparison], level: float = 0.05
) -> dict[Key, PairedComparison]:
    """Correct the p-values of comparisons that are read together, and renew their verdicts.

    Holm's step-down correction: the chance that any of the comparisons is a false alarm is at most
    ``level``, whatever their dependence; the settings share a baseline, so they do depend. (scipy
    has corrections for the false discovery rate alone.)

    Returns:
        The same comparisons with ``p_adjusted``, ``verdict`` and ``note``, in the same order.
    """
    found = list(comparisons.values())
    adjusted = _holm([comparison.p_value for comparison in found])
    # what the correction would leave if all the pairs agreed: more is not to be had from this plan
    reachable = _holm([comparison.smallest_p for comparison in found])
    return {
        key: judged(
            dataclasses.replace(comparison, p_adjusted=p),
            level=accepted(level),
            reachable=least,
            family=len(found),
        )
        for key, comparison, p, least in zip(comparisons, found, adjusted, reachable, strict=True)
    }


def _holm(p_values: Sequence[float]) -> list[float]:
    """Multiply the smallest of m by m, the next by m - 1 and so on; never fall below a former."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for passed, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, p_values[index] * (len(p_values) - passed)))
        adjusted[index] = running
    return adjusted
