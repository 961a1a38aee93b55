"""Effects and the rule of verdict: fixed before the runs, the same for a question and a claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from hiddenkey.lab.claims.plan import BASELINE, COST, Contrast, Quantity
from hiddenkey.lab.evidence import inference
from hiddenkey.lab.evidence.inference import Estimate

Verdict = Literal["holds", "does not hold", "cannot tell"]

ONE_SIDED: Final = inference.LEVEL / 2
"""Share of wrong verdicts of either kind that is accepted; a 95 % interval has it on each side."""

_ROUNDING: Final = 1e-9
"""What a share times a count may be above a whole number by rounding alone."""

_DECIMALS: Final = 9
"""Decimals of a seed's effect that are kept: more than a metric, a loss or a time has, and what
float64 loses is far below. So equal differences are equal, and a difference of nothing is 0."""

Values = Mapping[tuple[str, str, str], Mapping[int, float]]
"""Value by seed, by task setup, configuration and measure; only seeds with a finite value."""


class Judged:
    """What has a verdict: ``holds`` if both of its p-values are small."""

    @property
    def p_values(self) -> tuple[float, float]:
        """P-values of "it is not as claimed" and of "it is as claimed"."""
        raise NotImplementedError

    @property
    def p_holds(self) -> float:
        """P-value of "it is not as claimed"."""
        return self.p_values[0]

    @property
    def p_fails(self) -> float:
        """P-value of "it is as claimed"."""
        return self.p_values[1]

    @property
    def verdict(self) -> Verdict:
        """By the rule."""
        return decide(*self.p_values)


def decide(p_holds: float, p_fails: float) -> Verdict:
    """Return the verdict that two p-values give; ``holds`` if both are small."""
    if p_holds < ONE_SIDED:
        return "holds"
    return "does not hold" if p_fails < ONE_SIDED else "cannot tell"


def how_many(need: float, questions: int) -> int:
    """Return how many questions must hold: the share ``need`` of them, rounded up."""
    return math.ceil(need * questions - _ROUNDING)


def combine(p_holds: Sequence[float], p_fails: Sequence[float], need: int) -> tuple[float, float]:
    """Combine the p-values of a claim's questions.

    With m questions of which u must hold, "fewer than u hold" has

        p = (m − u + 1) · p_(u),

    where p_(u) is the u-th smallest of ``p_holds``. At most u − 1 of the questions hold if it is
    true, so one of at least m − u + 1 that do not must be among the u smallest: Bonferroni over
    these, whatever the dependence. "u or more hold" is the same with m − u + 1 in place of u: so
    many failures leave fewer than u. Benjamini and Heller, *Screening for Partial Conjunction
    Hypotheses*, Biometrics 64 (2008), 1215-1222.

    Args:
        p_holds: of each question, the p-value of "it does not hold".
        p_fails: of each question, the p-value of "it holds".
        need: how many must hold.

    Returns:
        Both p-values; 1 without questions.
    """
    if not p_holds:
        return 1.0, 1.0
    return _at_least(need, p_holds), _at_least(len(p_fails) - need + 1, p_fails)


def _at_least(few: int, p_values: Sequence[float]) -> float:
    """Return the p-value of "fewer than ``few`` of the null hypotheses are false"."""
    return min(1.0, (len(p_values) - few + 1) * sorted(p_values)[few - 1])


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
        between_tasks: estimate of the same mean with the tasks for a sample, too: of each task's
            mean over the seeds. ``None`` below three tasks, or where a task has further seeds.
    """

    contrast: Contrast
    task: str | None
    values: tuple[float, ...]
    estimate: Estimate
    tasks: tuple[str, ...] = ()
    between_tasks: Estimate | None = None

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
        return self._shown(self.estimate)

    @property
    def interval_over_tasks(self) -> tuple[float, float] | None:
        """The 95 % interval over tasks and seeds: for a further task like these.

        It is Student's t on the tasks' mean effects, which differ by their seeds as well. Tasks
        that share seeds may be correlated; where the seeds' own interval is wider, it is that one.
        """
        ends = [self._shown(self.estimate), self._shown(self.between_tasks)]
        known = [each for each in ends if each is not None]
        return max(known, key=lambda each: each[1] - each[0]) if len(known) == len(ends) else None

    def _shown(self, estimate: Estimate | None) -> tuple[float, float] | None:
        found = None if estimate is None else estimate.interval()
        shown = self.contrast.shown
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
    if task is not None:
        return Effect(contrast, task, shown, found)
    between = _between_tasks(contrast, values, tasks, len(by_seed))
    return Effect(contrast, None, shown, found, tuple(tasks), between)


def level(values: Values, tasks: Sequence[str], name: str, measure: Quantity) -> Effect:
    """Return a configuration's mean over tasks and seeds, with its interval."""
    return effect(_unjudged({name: 1.0}, measure), values, tasks)


def gain(values: Values, tasks: Sequence[str], name: str, measure: Quantity) -> Effect:
    """Return a configuration's difference to plain LoRA, seed by seed."""
    return effect(_unjudged({name: 1.0, BASELINE: -1.0}, measure), values, tasks)


def _unjudged(weights: Mapping[str, float], measure: Quantity) -> Contrast:
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


def _between_tasks(
    contrast: Contrast, values: Values, tasks: Sequence[str], seeds: int
) -> Estimate | None:
    """Estimate a mean over ``seeds`` seeds from the tasks' own means over them."""
    by_task = [_by_seed(contrast, values, (task,)) for task in tasks]
    if len(tasks) < inference.FEWEST or not seeds or any(len(own) > seeds for own in by_task):
        return None
    return Estimate.of([math.fsum(own) / seeds for own in by_task], resolution=0)


def _log(ratio: float) -> float:
    return math.log(ratio) if ratio > 0 else -math.inf
