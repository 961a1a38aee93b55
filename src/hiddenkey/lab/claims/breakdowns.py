"""Runs of a claim that broke down, and what its effects are without their pairs."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from hiddenkey.lab.claims.effects import Effect, Values, effect
from hiddenkey.lab.claims.plan import COST
from hiddenkey.lab.evidence.breakdowns import Breakdown, find_breakdowns

TRAINING: Final = "training metric"
"""Name among the values: main metric on the training examples, in percentage points.

Nothing is asked of it.
"""

_POINTS: Final = 100


@dataclass(frozen=True)
class BrokenRun:
    """A run that broke down.

    Attributes:
        task: name of the task setup.
        configuration: name of the configuration.
        breakdown: its seed and its metric, in percentage points.
    """

    task: str
    configuration: str
    breakdown: Breakdown


@dataclass(frozen=True)
class Remainder:
    """An effect without the pairs of runs that broke down.

    Attributes:
        effect: with all pairs.
        left_out: how many pairs are left out.
        mean: of the others, each task's own mean first; ``None`` where a task has none left.
    """

    effect: Effect
    left_out: int
    mean: float | None


def broken_runs(values: Values) -> tuple[BrokenRun, ...]:
    """Return the runs that broke down, in the order of the values."""
    return tuple(
        BrokenRun(task, configuration, found)
        for (task, configuration, measure), known in values.items()
        if measure == TRAINING
        for found in find_breakdowns(known, _POINTS)
    )


def without_broken(found: Effect, values: Values, runs: Sequence[BrokenRun]) -> Remainder | None:
    """Return what is left of an effect; ``None`` if no run of it broke down, or it is of steps.

    Args:
        found: the effect.
        values: what it was estimated from.
        runs: those that broke down, from :func:`broken_runs`.
    """
    contrast = found.contrast
    if contrast.measure == COST:
        return None
    broken = [
        (run.task, run.breakdown.seed) for run in runs if run.configuration in contrast.weights
    ]
    seeds = {
        task: {seed for place, seed in broken if place == task}
        for task in ((found.task,) if found.task else found.tasks)
    }
    left_out = sum(map(len, seeds.values()))
    if not left_out:
        return None
    means = [
        effect(contrast, _other_seeds(values, own), (task,), task).mean
        for task, own in seeds.items()
    ]
    known = [mean for mean in means if mean is not None]
    return Remainder(found, left_out, fmean(known) if len(known) == len(means) else None)


def _other_seeds(values: Values, left_out: Set[int]) -> Values:
    return {
        place: {seed: value for seed, value in known.items() if seed not in left_out}
        for place, known in values.items()
    }
