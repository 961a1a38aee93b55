"""What was found about a claim, and what its plan could show: all that the page reads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from hiddenkey.lab.claims.effects import Effect, Judged, Values, combine, how_many
from hiddenkey.lab.claims.plan import COST, Claim, Contrast, Scale
from hiddenkey.lab.evidence.inference import LEVEL
from hiddenkey.lab.evidence.planning import Design

_IN_POINTS: Final = ("metric", "best", "gap")
"""Measures that the known deviation, in percentage points, is taken to hold for."""


class Setting(NamedTuple):
    """What a choice chooses; ``None`` where it has nothing to choose between.

    Attributes:
        learning_rate: the learning rate.
        rate: the dropout rate; ``None`` for a method without.
        epochs: passes over the training examples; ``None`` where all have the task's own.
    """

    learning_rate: float
    rate: float | None
    epochs: float | None = None


@dataclass(frozen=True)
class Chosen:
    """What held-out training examples chose on one task.

    Attributes:
        task: name of the task setup.
        choice: name of the choice.
        setting: the chosen one.
        runs: training runs that the choice rests on.
        scores: what it was chosen by, on the held-out examples, by setting: the mean main metric,
            or the mean loss with its sign turned.
    """

    task: str
    choice: str
    setting: Setting
    runs: int
    scores: Mapping[Setting, float]


@dataclass(frozen=True)
class Power:
    """What the plan could show of one question by itself.

    Attributes:
        contrast: the question.
        interval: seeds, tasks, and how much the question's effect varies between seeds.
    """

    contrast: Contrast
    interval: Design

    @property
    def design(self) -> Design:
        """The test of the question, whose level may be half of the interval's."""
        return design(self.contrast, self.interval)

    @property
    def half_width(self) -> float:
        """Expected half width of the 95 % interval, in points; infinite below three seeds."""
        return self.interval.half_width()

    @property
    def detects(self) -> float:
        """Chance that an effect as large as the margin is distinguished from 0."""
        return self.design.power(self.contrast.margin)

    @property
    def excludes(self) -> float:
        """Chance that an effect of 0 is shown to be smaller than the margin."""
        if self.contrast.expect != "equal":
            return self.detects
        return self.interval.equivalence(self.contrast.margin)

    @property
    def needed(self) -> int | None:
        """Fewest seeds with which ``detects`` is 80 %; ``None`` above 1,000."""
        return self.design.pairs_needed(self.contrast.margin)


@dataclass(frozen=True)
class Ruling(Judged):
    """A claim and what came out.

    Attributes:
        claim: the claim.
        questions: the effects that the verdict rests on.
        by_task: the same contrasts on each task, for the reader.
        left_out: task setups that do not count, with the reason.
        missing: runs of the plan that are not there (yet, or failed).
        power: what the plan could show.
        sentences: what the verdict rests on, in plain words.
    """

    claim: Claim
    questions: tuple[Effect, ...]
    by_task: tuple[Effect, ...]
    left_out: Mapping[str, str]
    missing: int
    power: tuple[Power, ...]
    sentences: tuple[str, ...] = ()

    @property
    def needed(self) -> int:
        """How many questions must hold."""
        return how_many(self.claim.need, len(self.questions))

    @cached_property
    def p_values(self) -> tuple[float, float]:
        """P-values of "fewer than ``needed`` hold" and of "``needed`` or more hold"."""
        asked = self.questions
        return combine([e.p_holds for e in asked], [e.p_fails for e in asked], self.needed)

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
        found = {(e.contrast.name, e.task): e for e in (*self.questions, *self.by_task)}
        names = list(dict.fromkeys(name for name, _ in found))
        return tuple(sorted(found.values(), key=lambda e: names.index(e.contrast.name)))


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
    findings: tuple[Ruling, ...]
    values: Values
    chosen: tuple[Chosen, ...]
    command: str
    environments: tuple[tuple[Mapping[str, str], int], ...]
    started: str
    ended: str
    runs: int


def design(contrast: Contrast, interval: Design) -> Design:
    """Return the test of a question; one that can fail in two directions has half of the level."""
    return (
        dataclasses.replace(interval, level=LEVEL / 2) if contrast.expect == "equal" else interval
    )


def expected_power(claim: Claim, scale: Scale) -> tuple[Power, ...]:
    """Estimate what a claim's contrasts could show at a scale.

    ``scale.power`` has the standard deviation σ of a paired difference between two configurations
    on one task. With configurations whose values vary alike and independently once the seed's
    common part has cancelled, a contrast with weights w varies by

        σ · √(Σ w² / 2),

    and the mean over k tasks by √k less. A claim that needs several questions is decided less
    often. Contrasts that are not in points, or expect a range, have none.
    """
    tasks = len(claim.tasks) if claim.scope == "pooled" else 1
    found = []
    for contrast in claim.contrasts:
        if tasks and contrast.measure in _IN_POINTS and contrast.expect != "between":
            squares = math.fsum(weight**2 for weight in contrast.weights.values())
            deviation = scale.power.deviation * math.sqrt(squares / 2)
            found.append(Power(contrast, Design(len(scale.seeds), deviation, tasks)))
    return tuple(found)
