"""What is found on one task: values and differences, gaps, costs, curves, sweeps and a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hiddenkey.lab.evidence.axes import Arm, Checkpoint, Measure
from hiddenkey.lab.evidence.comparisons import PairedComparison
from hiddenkey.lab.evidence.inference import Estimate, Ratio

Answer = Literal[
    "better", "worse", "mixed", "no clear difference", "inconclusive", "nothing to compare"
]


@dataclass(frozen=True)
class Cell:
    """One arm on one task by one measure.

    Attributes:
        arm: the arm.
        measure: the measure.
        values: value by seed, in the seeds' order.
        missing: finished runs without this value (a loss or metric that is no number).
        failed: runs that did not finish.
        description: summary of the values; ``None`` without values.
        against: label of the baseline's arm; ``None`` if there is none.
        comparison: with the baseline, paired by seed; ``None`` if not possible.
        reason: why there is no comparison; empty otherwise.
    """

    arm: Arm
    measure: Measure
    values: tuple[tuple[int, float], ...]
    missing: int
    failed: int
    description: Estimate | None
    against: str | None
    comparison: PairedComparison | None
    reason: str

    def is_main(self, checkpoint: Checkpoint) -> bool:
        """Whether it is of the task's main metric at a checkpoint."""
        return self.measure.main and self.measure.checkpoint == checkpoint


@dataclass(frozen=True)
class Gap:
    """Training examples against evaluation examples after the last step, without noise.

    Attributes:
        arm: the arm.
        name: main metric or ``loss``.
        evaluation: on the evaluation examples.
        training: on a fixed sample of the training examples.
        gap: ``training`` minus ``evaluation``.
    """

    arm: Arm
    name: str
    evaluation: Estimate
    training: Estimate
    gap: Estimate


@dataclass(frozen=True)
class Cost:
    """What an arm costs and gains.

    Attributes:
        arm: the arm.
        steps: optimiser steps, the median over runs.
        seconds_per_step: median over runs.
        time: seconds per step relative to the baseline's, over steps that took turns, or else over
            pairs of equal seed; ``None`` without a baseline.
        memory_mib: median peak memory: of the accelerator where there is one, else resident memory;
            ``None`` where the operating system does not tell it.
        memory: relative to the baseline's, over pairs of equal seed.
        device_memory: True if the memory is the accelerator's.
        lora_parameters: parameters of the adapter, 0 without one.
        gain: comparison of the main metric after the last step; ``None`` without a baseline.
    """

    arm: Arm
    steps: float
    seconds_per_step: float
    time: Ratio | None
    memory_mib: float | None
    memory: Ratio | None
    device_memory: bool
    lora_parameters: int
    gain: PairedComparison | None


@dataclass(frozen=True)
class CurvePoint:
    """A value at one step, over the runs that have it."""

    step: int
    spread: Estimate


@dataclass(frozen=True)
class Curve:
    """A value over the steps of training.

    Attributes:
        arm: the arm.
        name: main metric or ``loss``.
        part: ``evaluation`` or ``training`` examples, or the ``gap`` training minus evaluation;
            all without noise.
        points: in the order of the steps.
    """

    arm: Arm
    name: str
    part: Literal["evaluation", "training", "gap"]
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class SweepPoint:
    """One arm of a sweep.

    Attributes:
        x: value of the swept option; 0 for a level.
        last: main metric after the last step.
        best: main metric at the best evaluation.
    """

    x: float
    last: Estimate | None
    best: Estimate | None


@dataclass(frozen=True)
class Series:
    """Arms that differ in the swept option alone.

    Attributes:
        label: what they share.
        method: their method.
        others: what they share besides the method; lines of different ``others`` are not drawn in
            one picture, but a line whose ``others`` are part of a picture's joins it.
        points: in the option's order.
    """

    label: str
    method: str
    others: frozenset[str]
    points: tuple[SweepPoint, ...]


@dataclass(frozen=True)
class Sweep:
    """The main metric over one option.

    Attributes:
        option: ``rate``, ``rank`` or ``consistency_weight``.
        series: one line each; at least one has two points or more.
        levels: the baseline where it lacks the option: lines of one point without a place.
    """

    option: str
    series: tuple[Series, ...]
    levels: tuple[Series, ...]


@dataclass(frozen=True)
class Selection:
    """The arm of a method with the best mean: chosen on the evaluation examples.

    Attributes:
        cell: that of the arm with the best mean after the last step.
        tried: number of arms it was chosen from.
    """

    cell: Cell
    tried: int

    @property
    def chosen(self) -> Arm:
        """The arm; its ``family`` are those that it was chosen from."""
        return self.cell.arm


@dataclass(frozen=True)
class Verdict:
    """The answer for one task in plain words.

    Attributes:
        answer: in one or two words.
        headline: the answer as a sentence.
        sentences: what it rests on, and what it does not say.
    """

    answer: Answer
    headline: str
    sentences: tuple[str, ...]
