"""What was found about a claim: values, effects and verdicts; all that the page reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hiddenkey.lab.claims.plan import COST, Claim, Contrast, Scale
from hiddenkey.lab.claims.power import Power
from hiddenkey.lab.evidence.inference import Estimate

Verdict = Literal["holds", "does not hold", "cannot tell"]

Values = Mapping[tuple[str, str, str], Mapping[int, float]]
"""Value by seed, by task setup, configuration and measure; only seeds with a finite value."""

Setting = tuple[float, float | None]
"""A learning rate and a dropout rate; the rate is ``None`` for a method without."""


@dataclass(frozen=True)
class Chosen:
    """What held-out training examples chose on one task.

    Attributes:
        task: name of the task setup.
        choice: name of the choice.
        learning_rate: the chosen one.
        rate: the chosen dropout rate; ``None`` for a method without.
        runs: training runs that the choice rests on.
        scores: mean main metric on the held-out examples by setting.
    """

    task: str
    choice: str
    learning_rate: float
    rate: float | None
    runs: int
    scores: Mapping[Setting, float]

    @property
    def setting(self) -> Setting:
        """The chosen learning rate and dropout rate."""
        return self.learning_rate, self.rate


@dataclass(frozen=True)
class Effect:
    """A contrast's effect, on one task or as the mean over the tasks that count.

    Attributes:
        contrast: the question.
        task: name of the task setup; ``None`` for the mean over tasks.
        values: effect by seed, in the order of the seeds; for means over tasks the seeds that all
            of them have.
        estimate: of their mean; of step times on the log scale.
        p_holds: p-value of "the effect is not what the claim expects".
        p_fails: p-value of "the effect could be what the claim expects".
        verdict: of this contrast alone.
        tasks: the task setups that it is a mean over; empty for a single task.
    """

    contrast: Contrast
    task: str | None
    values: tuple[float, ...]
    estimate: Estimate
    p_holds: float
    p_fails: float
    verdict: Verdict
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


@dataclass(frozen=True)
class Finding:
    """A claim and what came out.

    Attributes:
        claim: the claim.
        questions: the effects that the verdict rests on.
        by_task: the same contrasts on each task, for the reader.
        needed: how many questions must hold.
        verdict: by the rule.
        p_holds: p-value of "fewer than ``needed`` hold".
        p_fails: p-value of "``needed`` or more hold".
        sentences: what it rests on, in plain words.
        left_out: task setups that do not count, with the reason.
        missing: runs of the plan that are not there (yet, or failed).
        power: what the plan could show.
    """

    claim: Claim
    questions: tuple[Effect, ...]
    by_task: tuple[Effect, ...]
    needed: int
    verdict: Verdict
    p_holds: float
    p_fails: float
    sentences: tuple[str, ...]
    left_out: Mapping[str, str]
    missing: int
    power: tuple[Power, ...]

    def tasks(self, measure: str) -> tuple[str, ...]:
        """The task setups that count; for what a step costs these are all."""
        planned = self.claim.tasks
        return tuple(task for task in planned if measure == COST or task not in self.left_out)

    def counts(self, effect: Effect) -> bool:
        """Whether an effect is of tasks that count."""
        return effect.task is None or effect.task in self.tasks(effect.contrast.measure)

    @property
    def effects(self) -> tuple[Effect, ...]:
        """The questions of the claim, each followed by the same contrast on each task."""
        asked = {(effect.contrast.name, effect.task) for effect in self.questions}
        more = [e for e in self.by_task if (e.contrast.name, e.task) not in asked]
        names = list(dict.fromkeys(e.contrast.name for e in (*self.questions, *more)))
        every = (*self.questions, *more)
        return tuple(sorted(every, key=lambda effect: names.index(effect.contrast.name)))


@dataclass(frozen=True)
class Evidence:
    """All that a page is made of.

    Attributes:
        scale: the scale.
        findings: one for each claim.
        values: every value that was measured.
        chosen: what was chosen on held-out training examples.
        command: the command that makes this page again.
        environments: distinct versions and machines of the runs, each with its number of runs.
        started: UTC time of the first run's start, ISO 8601; empty without runs.
        ended: of the last run's end.
        runs: finished runs that were used, those that chose settings included.
    """

    scale: Scale
    findings: tuple[Finding, ...]
    values: Values
    chosen: tuple[Chosen, ...]
    command: str
    environments: tuple[tuple[Mapping[str, str], int], ...]
    started: str
    ended: str
    runs: int
