"""A contrast's effect: from values by seed to a mean, an interval, p-values and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from hiddenkey.lab.claims.plan import BASELINE, COST, Contrast, Measure
from hiddenkey.lab.claims.rule import Judged
from hiddenkey.lab.evidence.inference import Estimate

_DECIMALS: Final = 9
"""Decimals of a seed's effect that are kept: more than a metric, a loss or a time has, and what
float64 loses is far below. So equal differences are equal, and a difference of nothing is 0."""


Values = Mapping[tuple[str, str, str], Mapping[int, float]]
"""Value by seed, by task setup, configuration and measure; only seeds with a finite value."""


@dataclass(frozen=True)
class Effect(Judged):
    """A contrast's effect, on one task or as the mean over the tasks that count.

    Interval and p-values are those of :class:`~hiddenkey.lab.evidence.inference.Estimate`.

    ================ =========================== ==========================================
    expected         holds                       does not hold
    ================ =========================== ==========================================
    ``better``       above 0                     below the margin
    ``no better``    below the margin            above 0
    ``equal``        within the margin of 0      other than 0 (two-sided)
    ``between``      from ``low`` to ``high``    below ``low`` or above ``high`` (two-sided)
    ================ =========================== ==========================================

    The middle column's two-sided cases are two one-sided tests, of which the larger p counts
    (Schuirmann's TOST, 1987).

    Attributes:
        contrast: the question.
        task: name of the task setup; ``None`` for the mean over tasks.
        values: effect by seed, in the order of the seeds; for means over tasks the seeds that all
            of them have.
        estimate: of their mean; of step times on the log scale.
        tasks: the task setups that it is a mean over; empty for a single task.
    """

    contrast: Contrast
    task: str | None
    values: tuple[float, ...]
    estimate: Estimate
    tasks: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The question, and the task if it is of one."""
        return self.contrast.name + (f", {self.task}" if self.task else "")

    @property
    def mean(self) -> float | None:
        """Mean effect; a step time's is the geometric mean. ``None`` without a value."""
        return self.contrast.shown(self.estimate.mean) if self.values else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The mean's 95 % interval; ``None`` where the values are too few."""
        found, shown = self.estimate.interval(), self.contrast.shown
        return None if found is None else (shown(found[0]), shown(found[1]))

    @cached_property
    def p_values(self) -> tuple[float, float]:
        """As :class:`Judged` has them."""
        asked, found = self.contrast, self.estimate
        place = _log if asked.measure == COST else float  # as _by_seed has its effects
        less, zero, more = (place(asked.no_effect + step * asked.margin) for step in (-1, 0, 1))
        match asked.expect:
            case "better":
                return found.above(zero), found.below(more)
            case "no better":
                return found.below(more), found.above(zero)
            case "equal":
                return found.within(less, more), found.differs(zero)
            case "between":
                low, high = place(asked.low), place(asked.high)
                return found.within(low, high), found.outside(low, high)


def effect(
    contrast: Contrast, values: Values, tasks: Sequence[str], task: str | None = None
) -> Effect:
    """Estimate a contrast over tasks, or on one of them.

    A seed's effect is the weighted sum of the configurations' values, averaged over the tasks; a
    seed counts if all configurations have a value for it on all tasks. The weights carry the sign:
    for a gap or a loss, where less is better, the better configuration has a negative weight.

    Step times are ratios, so they are summed and averaged as logarithms and returned as ratios: no
    effect is a ratio of 1, and the margin is what the ratio may be above or below 1.

    Args:
        contrast: the question.
        values: value by seed, by task setup, configuration and measure.
        tasks: the task setups of the mean.
        task: the only one to look at, instead of the mean.
    """
    by_seed = _by_seed(contrast, values, tasks if task is None else (task,))
    found = Estimate.of(by_seed, resolution=0 if contrast.measure == COST else None)
    shown = tuple(map(contrast.shown, by_seed))
    return Effect(contrast, task, shown, found, tuple(tasks) if task is None else ())


def level(values: Values, tasks: Sequence[str], name: str, measure: Measure) -> Effect:
    """Return a configuration's mean over tasks and seeds, with its interval."""
    return effect(_unjudged({name: 1.0}, measure), values, tasks)


def gain(values: Values, tasks: Sequence[str], name: str, measure: Measure) -> Effect:
    """Return a configuration's difference to plain LoRA, seed by seed."""
    return effect(_unjudged({name: 1.0, BASELINE: -1.0}, measure), values, tasks)


def _unjudged(weights: Mapping[str, float], measure: Measure) -> Contrast:
    """A contrast that is shown, not judged."""
    return Contrast("", weights, measure, "better", margin=0.0)


def _by_seed(contrast: Contrast, values: Values, tasks: Sequence[str]) -> list[float]:
    """Return the effect of each seed, in the order of the seeds; of step times its logarithm."""
    scaled = math.log if contrast.measure == COST else float
    parts: list[tuple[float, Mapping[int, float]]] = [
        (weight / len(tasks), values.get((task, name, contrast.measure), {}))
        for task in tasks
        for name, weight in contrast.weights.items()
    ]
    if not parts:
        return []
    seeds = set.intersection(*(set(known) for _, known in parts))
    return [
        round(math.fsum(weight * scaled(known[seed]) for weight, known in parts), _DECIMALS) + 0.0
        for seed in sorted(seeds)
    ]


def _log(ratio: float) -> float:
    return math.log(ratio) if ratio > 0 else -math.inf
