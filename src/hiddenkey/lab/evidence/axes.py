"""What a comparison varies and measures: tasks, configurations and measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hiddenkey.lab.plans.identity import Budget as Budget
from hiddenkey.lab.scores import lower_is_better

Checkpoint = Literal["last", "best"]


@dataclass(frozen=True)
class Task:
    """Examples that runs share.

    Attributes:
        label: name, and what tells it from other data of the same task.
        name: the task's name in the options.
        metric: its main metric; empty if no run finished.
        fingerprint: hash of the examples; empty if no run finished.
    """

    label: str
    name: str
    metric: str
    fingerprint: str


@dataclass(frozen=True)
class RunConfiguration:
    """What is compared: all of a run's options but task, data and seed.

    Attributes:
        label: the method, and what tells it from the method's other configurations.
        family: the label's beginning: the method, with model and rank where there are several.
        method: name of the method.
        model: as it was named in the options.
        rank: rank of LoRA.
        rate: dropout rate of all positions; ``None`` if nothing is dropped or rates differ.
        weight: weight of the consistency loss; ``None`` if there is none.
        others: other options that distinguish configurations of one method, with their values.
    """

    label: str
    family: str
    method: str
    model: str
    rank: int
    rate: float | None
    weight: float | None
    others: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Measure:
    """A number that each finished run has.

    Attributes:
        name: a metric's name, or ``loss`` for the task loss on the evaluation examples.
        checkpoint: ``last``: after the last step; ``best``: at the run's best evaluation, which is
            chosen on the evaluation examples themselves.
        main: it is the task's main metric.
        lower: whether smaller values are better, as the runs say; ``None``: as the name tells.
    """

    name: str
    checkpoint: Checkpoint
    main: bool
    lower: bool | None = None

    @property
    def larger_is_better(self) -> bool:
        """True for most metrics, False for losses and rates of errors."""
        return not (lower_is_better(self.name) if self.lower is None else self.lower)

    def worth(self, value: float) -> float:
        """Return a value, or a difference of values, so turned that more is better."""
        return value if self.larger_is_better else -value
