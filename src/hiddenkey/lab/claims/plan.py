"""What a claim says, which runs bear on it, and what would count as an answer.

All of it is written down before a run: the configurations, the contrasts between them, the margin
that matters, how many contrasts must hold, and the tasks. ``reading`` fills these types from YAML.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

Expectation = Literal["better", "no better", "equal", "between"]
Scope = Literal["pooled", "each task"]
Quantity = Literal[
    "metric", "best", "gap", "loss", "step time", "ece", "brier",
    "loss_after_temperature", "ece_after_temperature", "brier_after_temperature",
]  # fmt: skip

MEASURES: Final[Mapping[Quantity, str]] = MappingProxyType(
    {
        "metric": "main metric after the last step, in percentage points",
        "best": "main metric at the best evaluation, in percentage points",
        "gap": "main metric on training minus evaluation examples, in percentage points",
        "loss": "loss on the evaluation examples after the last step",
        "ece": "expected calibration error on the evaluation examples after the last step",
        "brier": "Brier score on the evaluation examples after the last step",
        "loss_after_temperature": "loss with logits divided by a temperature fitted elsewhere",
        "ece_after_temperature": "expected calibration error with the same temperature",
        "brier_after_temperature": "Brier score with the same temperature",
        "step time": "time of a training step relative to the baseline's, side by side",
    }
)
"""What a contrast may compare, and its unit."""

BASELINE: Final = "lora"
"""Configuration, choice and method of plain LoRA, which is trained on every task."""

COST: Final = "step time"
"""The measure that is not of a run but of steps that take turns."""


@dataclass(frozen=True)
class Configuration:
    """What is trained.

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


PLAIN: Final = Configuration(BASELINE, BASELINE, {}, BASELINE)
"""Plain LoRA."""


@dataclass(frozen=True)
class Contrast:
    """A question with a number for an answer.

    Attributes:
        name: it in words.
        weights: weight of each configuration's mean; their sum is 0, but for the step time.
        measure: a key of :data:`MEASURES`.
        expect: what the claim says of the effect: ``better``: above 0. ``no better``: below the
            margin. ``equal``: within the margin of 0. ``between``: from ``low`` to ``high``.
        margin: the smallest effect that would matter, in the measure's unit.
        low: lower end of what ``between`` expects.
        high: its upper end.
    """

    name: str
    weights: Mapping[str, float]
    measure: Quantity
    expect: Expectation
    margin: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def no_effect(self) -> int:
        """An effect of nothing: 0, but 1 of ratios."""
        return 1 if self.measure == COST else 0

    def shown(self, value: float) -> float:
        """An effect as it is shown; step times are averaged as logarithms and shown as ratios."""
        return math.exp(value) if self.measure == COST else value


@dataclass(frozen=True)
class Drawing:
    """A figure or table of a claim.

    Attributes:
        kind: ``sweep``: a measure over a number, a line per series. ``grid``: a table of
            configurations by two axes. ``effects``: the contrasts with their intervals.
        title: heading.
        x: name of the number on the horizontal axis of a sweep.
        logarithmic: whether that axis is.
        series: of a sweep: configuration by number, by label of the line.
        cells: of a grid: configuration by column, by row.
        measure: a key of :data:`MEASURES`.
    """

    kind: Literal["sweep", "grid", "effects"]
    title: str
    x: str = ""
    logarithmic: bool = False
    series: Mapping[str, Mapping[float, str]] = field(default_factory=dict)
    cells: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    measure: Quantity = "metric"

    @property
    def shown(self) -> set[str]:
        """Names of the configurations that it shows."""
        drawn = {name for points in self.series.values() for name in points.values()}
        return drawn | {name for cells in self.cells.values() for name in cells.values()}

    def only(self, names: Collection[str]) -> Drawing:
        """Return it without the lines and cells of all other configurations.

        A line on which plain LoRA alone is left is no line.
        """
        lines = {
            label: {number: name for number, name in points.items() if name in names}
            for label, points in self.series.items()
        }
        rows = {
            row: {column: name for column, name in cells.items() if name in names}
            for row, cells in self.cells.items()
        }
        series = {label: own for label, own in lines.items() if {*own.values()} - {BASELINE}}
        return dataclasses.replace(
            self, series=series, cells={row: cells for row, cells in rows.items() if cells}
        )


@dataclass(frozen=True)
class Claim:
    """A claim and its plan at one scale.

    Attributes:
        name: ``C1`` to ``C9``, or a name of one's own.
        title: the claim in one line.
        paper: what the paper says, and where.
        how: how the plan tests it, and what it cannot test, in plain words.
        configurations: what is trained, by name.
        contrasts: the questions.
        scope: whether a contrast's effect is the mean over tasks, or each task is its own question.
        need: share of the questions that must hold, in (0, 1]; 1: all.
        tasks: names of the task setups; empty if the scale has none for it.
        pictures: figures and tables of the page.
    """

    name: str
    title: str
    paper: str
    how: str
    configurations: Mapping[str, Configuration]
    contrasts: tuple[Contrast, ...]
    scope: Scope = "pooled"
    need: float = 1.0
    tasks: tuple[str, ...] = ()
    pictures: tuple[Drawing, ...] = ()

    @property
    def trained(self) -> list[str]:
        """Names of the configurations that are trained to the end: not those only timed."""
        weighed = {name for c in self.contrasts if c.measure != COST for name in c.weights}
        used = weighed.union(*(drawing.shown for drawing in self.pictures))
        return [name for name in self.configurations if name in used]

    def asked(self) -> Claim:
        """Return it with what its questions compare and plain LoRA, without what is only drawn."""
        compared = {BASELINE}.union(*(contrast.weights for contrast in self.contrasts))
        pictures = [drawing.only(compared) for drawing in self.pictures]
        return dataclasses.replace(
            self,
            configurations={k: own for k, own in self.configurations.items() if k in compared},
            pictures=tuple(d for d in pictures if d.shown or d.kind == "effects"),
        )

    @property
    def timed(self) -> list[str]:
        """Names of the configurations whose steps are timed."""
        used = {name for c in self.contrasts if c.measure == COST for name in c.weights}
        return [name for name in self.configurations if name in used]


@dataclass(frozen=True)
class Choice:
    """Settings that are chosen on held-out training examples.

    Attributes:
        name: by which configurations refer to it.
        method: dropout method.
        settings: fixed settings, such as the adapter.
        learning_rates: the ones tried.
        rates: dropout rates tried; empty for a method without.
        epochs: lengths tried; empty: the task's own.
        by: ``metric``: the main metric decides; ``loss``: the loss.
        scope: ``each task`` has a choice of its own; or ``all tasks`` of the scale have one
            together, by the mean over them, which rests on as many times the runs.
        seeds: training seeds of each setting. A method without a rate is trained with as many seeds
            more as the others have rates, so that each gets the same number of runs.
    """

    name: str
    method: str
    settings: Mapping[str, Any]
    learning_rates: tuple[float, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    epochs: tuple[float, ...] = ()
    by: Literal["metric", "loss"] = "metric"
    scope: Literal["each task", "all tasks"] = "each task"


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
class AssumedScatter:
    """What was known of the scatter over seeds before the runs.

    Attributes:
        deviation: standard deviation of a paired difference on one task, in percentage points.
        source: where it comes from.
    """

    deviation: float
    source: str


@dataclass(frozen=True)
class Scale:
    """How large the evidence is.

    Attributes:
        name: such as ``small``.
        summary: in one line, with the time it takes and where.
        seeds: training seeds of every configuration.
        repeats: measurements of a step's time for each configuration.
        common: settings of all runs.
        tasks: task setups by name.
        choices: choices by name.
        power: what was known of the scatter over seeds before the runs.
        asked_only: train only what a question compares, and not what a figure shows beside it.
    """

    name: str
    summary: str
    seeds: tuple[int, ...]
    repeats: int
    common: Mapping[str, Any]
    tasks: Mapping[str, TaskSetup]
    choices: Mapping[str, Choice]
    power: AssumedScatter
    asked_only: bool = False
