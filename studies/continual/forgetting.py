"""What a matrix of accuracies after each task comes to."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

Accuracies = Sequence[Sequence[float]]
"""``[after task, on task]``."""


def final_accuracy(found: Accuracies) -> float:
    """Mean over all tasks after the last one (ACC of arXiv 1706.08840, equation 2)."""
    return fmean(found[-1])


def learnt_accuracy(found: Accuracies) -> float:
    """Mean over the tasks of the accuracy right after each was learnt."""
    return fmean(row[task] for task, row in enumerate(found))


def forgetting(found: Accuracies) -> float:
    """Mean loss of accuracy on the earlier tasks since each was learnt.

    Σ_{i<T} (R_ii − R_Ti) / (T − 1): the negative of the backward transfer of arXiv 1706.08840,
    equation 3. Negative where later tasks help.
    """
    earlier = range(len(found) - 1)
    return fmean(found[task][task] - found[-1][task] for task in earlier)
