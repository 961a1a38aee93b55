"""What a claim says, which runs bear on it, and what would count as an answer.

All of it is written down before a run: the arms, the contrasts between them, the margin that
matters, how many contrasts must hold, and the tasks. ``reading`` and ``scales`` fill these types
from YAML.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

Expectation = Literal["better", "no better", "equal", "between"]
Scope = Literal["pooled", "each task"]

MEASURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "metric": "main metric after the last step, in points (hundredths)",
        "best": "main metric at the best evaluation, in points (hundredths)",
        "gap": "main metric on training minus evaluation examples, in points (hundredths)",
        "loss": "loss on the evaluation examples after the last step",
        "step time": "time of a training step relative to the baseline's, side by side",
    }
)
"""What a contrast may compare, and its unit."""

BASELINE: Final = "lora"
"""Arm, choice and method of plain LoRA, which is trained on every task."""

COST: Final = "step time"
"""The measure that is not of a run but of steps that take turns."""


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: its name in the claim.
        method: dropout method.
        settings: settings of a run that are fixed, by name; they win over chosen ones.
        chosen_as: name of the choice whose learning rate and dropout rate it takes.
    """

    name: str
    method: str
    settings: Mapping[str, Any]
    chosen_as: str


@dataclass(frozen=True)
class Contrast:
    """A question with a number for an answer.

    Attributes:
        name: it in words.
        weights: weight of each arm's mean; their sum is 0, but for the step time.
        measure: a key of :data:`MEASURES`.
        expect: what the claim says of the effect: ``better``: above 0. ``no better``: below the
            margin. ``equal``: within the margin of 0. ``between``: from ``low`` to ``high``.
        margin: the smallest effect that would matter, in the measure's unit.
        low: lower end of what ``between`` expects.
        high: its upper end.
    """

    name: str
    weights: Mapping[str, float]
    measure: str
    expect: Expectation
    margin: float
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Picture:
    """A figure of a claim.

    Attributes:
        kind: ``sweep``: a measure over a number, a line per series. ``grid``: a table of arms by
            two axes. ``effects``: the contrasts with their intervals.
        title: heading.
        x: name of the number on the horizontal axis of a sweep.
        logarithmic: whether that axis is.
        series: of a sweep: arm by number, by label of the line.
        rows: of a grid: labels of the rows.
        columns: of a grid: labels of the columns.
        cells: of a grid: arm by ``row, column``.
        measure: a key of :data:`MEASURES`.
    """

    kind: Literal["sweep", "grid", "effects"]
    title: str
    x: str = ""
    logarithmic: bool = False
    series: Mapping[str, Mapping[float, str]] = field(default_factory=dict)
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    cells: Mapping[tuple[str, str], str] = field(default_factory=dict)
    measure: str = "metric"


@dataclass(frozen=True)
class Claim:
    """A claim and its plan.

    Attributes:
        name: ``C1`` to ``C9``, or a name of one's own.
        title: the claim in one line.
        paper: what the paper says, and where.
        how: how the plan tests it, and what it cannot test, in plain words.
        arms: the ways to train, by name.
        contrasts: the questions.
        scope: whether a contrast's effect is the mean over tasks, or each task is its own question.
        need: share of the questions that must hold, in (0, 1]; 1: all.
        tasks: names of task setups by scale.
        pictures: figures of the page.
    """

    name: str
    title: str
    paper: str
    how: str
    arms: Mapping[str, Arm]
    contrasts: tuple[Contrast, ...]
    scope: Scope
    need: float
    tasks: Mapping[str, tuple[str, ...]]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Choice:
    """Settings that are chosen on held-out training examples.

    Attributes:
        name: by which arms refer to it.
        method: dropout method.
        settings: fixed settings, such as the adapter.
        learning_rates: the ones tried.
        rates: dropout rates tried; empty for a method without.
        seeds: training seeds of each setting. A method without a rate is trained with as many seeds
            more as the others have rates, so that each gets the same number of runs.
    """

    name: str
    method: str
    settings: Mapping[str, Any]
    learning_rates: tuple[float, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class TaskSetup:
    """A task at the size of a scale.

    Attributes:
        name: by which claims refer to it.
        options: settings of its runs: task, model, sizes, length, steps.
        validation: training examples that choices are judged on, beside those that are trained on;
            below 1, for tasks that train on all examples: their share.
        floor: main metric, in points, that plain LoRA must exceed on the evaluation examples for
            the task to count: below it nothing is learnt that dropout could change.
        choices: names of the choices made on it.
        learning_rates: learning rates tried on it, by choice, where they differ from the scale's.
    """

    name: str
    options: Mapping[str, Any]
    validation: float
    floor: float
    choices: tuple[str, ...]
    learning_rates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Power:
    """What a plan of this size can show, reckoned before the runs.

    Attributes:
        deviation: standard deviation of a paired difference on one task, in points, from earlier
            runs.
        source: where it comes from.
    """

    deviation: float
    source: str


@dataclass(frozen=True)
class Scale:
    """How large the evidence is.

    Attributes:
        name: ``tiny``, ``small``, ``medium`` or ``paper``.
        summary: in one line, with the time it takes and where.
        seeds: training seeds of every arm.
        repeats: measurements of a step's time for each arm.
        common: settings of all runs.
        tasks: task setups by name.
        choices: choices by name.
        power: what was known of the noise before the runs.
    """

    name: str
    summary: str
    seeds: tuple[int, ...]
    repeats: int
    common: Mapping[str, Any]
    tasks: Mapping[str, TaskSetup]
    choices: Mapping[str, Choice]
    power: Power
