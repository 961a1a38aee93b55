"""Several methods over several tasks: average ranks, and which of them can be distinguished."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from hiddenkey.lab.evidence.inference import LEVEL, finite, tidy

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
else:
    Array = Any

_FEW: Final = 10
"""Tasks below which Demšar's rule of thumb calls the tests' approximation poor."""


@dataclass(frozen=True)
class Ranking:
    """Methods ranked on each task, and what their average ranks show.

    Attributes:
        ranks: average rank of each method, 1 is best; the best method first. Equal scores share
            the mean of their places.
        tasks: number of tasks.
        p_value: Friedman's, corrected for ties: whether any method differs from any other.
        critical_difference: Nemenyi's: average ranks this far apart differ at ``LEVEL``.
        cliques: the largest groups of methods that cannot be distinguished, in order of rank; a
            method in no group differs from all others. Where Friedman's test finds nothing, pairs
            are not looked at, and all methods are one group.
        note: what weakens the evidence, as sentences, or ``None``.
    """

    ranks: Mapping[str, float]
    tasks: int
    p_value: float
    critical_difference: float
    cliques: tuple[tuple[str, ...], ...]
    note: str | None


def rank_methods(scores: Mapping[str, Sequence[float]]) -> Ranking:
    """Rank methods over tasks by Friedman's test and Nemenyi's post-hoc test.

    After Demšar (2006), *Statistical Comparisons of Classifiers over Multiple Data Sets*. A task
    counts once, whatever its seeds and the scale of its metric. Average ranks differ if they are at
    least

        q · sqrt(k (k + 1) / (6 N))

    apart, for ``k`` methods, ``N`` tasks and the studentised range's quantile ``q`` over √2. That
    covers all pairs together, so no further correction is due.

    Args:
        scores: for each method one score per task, such as the mean over seeds, with the tasks in
            the same order for all; larger is better.

    Raises:
        ValueError: with fewer than three methods or two tasks, unequal numbers of tasks, or a score
            that is missing or not finite.
    """
    import numpy as np

    table = _table(scores)
    ranks = _ranks(table)
    averages = dict(zip(scores, np.mean(ranks, axis=1).tolist(), strict=True))
    ordered = dict(sorted(averages.items(), key=lambda item: item[1]))
    tasks = table.shape[1]
    p_value = _friedman(ranks)
    critical = critical_difference(len(ordered), tasks)
    return Ranking(
        ranks=ordered,
        tasks=tasks,
        p_value=p_value,
        critical_difference=critical,
        cliques=_cliques(ordered, critical) if p_value <= LEVEL else (tuple(ordered),),
        note=_note(len(ordered), tasks, critical, p_value),
    )


def _table(scores: Mapping[str, Sequence[float]]) -> Array:
    """Return the scores, ``[methods, tasks]``."""
    import numpy as np

    if len(scores) < 3:
        raise ValueError(
            f"a ranking takes at least 3 methods, got {len(scores)}; compare two by compare_paired"
        )
    lengths = {method: len(values) for method, values in scores.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"every method must have a score on every task, got {lengths} scores; leave out tasks"
            " or methods that are not complete"
        )
    table = [finite(values, f"scores of {method!r}") for method, values in scores.items()]
    if len(table[0]) < 2:
        raise ValueError(f"a ranking takes at least 2 tasks, got {len(table[0])}; add tasks")
    return np.asarray(table)


def _ranks(table: Array) -> Array:
    """Return the rank of each method on each task, ``[methods, tasks]``; the largest score is 1."""
    import numpy as np
    from scipy import stats

    # each task on a grid of its own, since metrics differ in scale
    columns = [tidy(column.tolist()) for column in table.T]
    return np.asarray(stats.rankdata(-np.stack(columns, axis=1), axis=0))


def _friedman(ranks: Array) -> float:
    """Return the p-value of Friedman's test; 1 where all methods tie on all tasks."""
    from scipy import stats

    return 1.0 if (ranks == ranks[0]).all() else float(stats.friedmanchisquare(*ranks).pvalue)


@lru_cache
def critical_difference(methods: int, tasks: int, level: float = LEVEL) -> float:
    """Return Nemenyi's critical difference of average ranks."""
    from scipy import stats

    quantile = float(stats.studentized_range.isf(level, methods, math.inf)) / math.sqrt(2)
    return quantile * math.sqrt(methods * (methods + 1) / (6 * tasks))


def _cliques(ordered: Mapping[str, float], critical: float) -> tuple[tuple[str, ...], ...]:
    """Return the runs of neighbours less than the critical difference apart, none in another."""
    names, ranks = list(ordered), list(ordered.values())
    # for each method the last one that it cannot be distinguished from
    ends = [max(j for j, rank in enumerate(ranks) if rank - best < critical) for best in ranks]
    starts = [0, *(after for after, (one, two) in enumerate(pairwise(ends), 1) if two > one)]
    return tuple(tuple(names[start : ends[start] + 1]) for start in starts if ends[start] > start)


def _note(methods: int, tasks: int, critical: float, p_value: float) -> str | None:
    sentences = []
    # the best and the worst method cannot be further apart than this
    if critical > methods - 1:
        sentences.append(
            f"{tasks} tasks are too few for {methods} methods: even the same order on every task"
            " would not distinguish the first from the last."
        )
    elif tasks < _FEW:
        sentences.append(
            f"Inconclusive: {tasks} tasks are few, and both tests are approximations for"
            f" {_FEW} tasks or more."
        )
    if p_value > LEVEL:
        sentences.append(
            f"Friedman's test finds no difference between the methods (p = {p_value:.2g}), so their"
            " order may be chance."
        )
    return " ".join(sentences) or None
