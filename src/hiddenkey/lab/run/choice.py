"""Whether a run chooses what is used at inference, and on how many of its training examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hiddenkey.lab.tasks import TASKS, find_task

if TYPE_CHECKING:
    from hiddenkey.lab.run.options import TrainOptions

_FOR: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "average_part": ("inference", ("average", "chosen")),
    "ema_decay": ("inference", ("ema", "chosen")),
}
"""Settings that mean something only where another one has one of these values."""


@dataclass(frozen=True)
class Used:
    """What is used at inference.

    Attributes:
        weights: ``last``, ``average``, ``ema``, or ``scale`` and the factor of the update.
        temperature: by which logits are divided.
        losses: of the candidates on the held-out training examples, after their temperatures.
    """

    weights: str = "last"
    temperature: float = 1.0
    losses: Mapping[str, float] = field(default_factory=dict)


def chooses(options: TrainOptions) -> bool:
    """Whether the run needs labels that it neither trains on nor is judged by."""
    return options.inference == "chosen" or options.temperature == "fitted"


def choice_size(options: TrainOptions, examples: int) -> int:
    """Return how many of so many training examples a run holds out for its choice."""
    return round(options.choice_share * examples) if chooses(options) else 0


def choice_faults(options: TrainOptions) -> list[str]:
    """Return which settings of the choice contradict the others."""
    faults = [
        f"{name} is for {other} {' and '.join(values)}, got {value!r} with {other}"
        f" {getattr(options, other)!r}; leave it out"
        for name, (other, values) in _FOR.items()
        if (value := getattr(options, name)) != _default(options, name)
        and getattr(options, other) not in values
    ]
    share = options.choice_share
    if share != _default(options, "choice_share") and not chooses(options):
        faults.append(
            f"choice_share is for inference chosen and temperature fitted, got {share!r} without;"
            " leave it out"
        )
    if chooses(options) and options.keep == "best":
        faults.append(
            "keep must be 'last' where held-out training examples choose what is used, got 'best',"
            " which the evaluation examples choose; leave one of them out"
        )
    kind = find_task(options.task, options).kind if options.task in TASKS else "classification"
    if options.temperature == "fitted" and kind != "classification":
        faults.append(
            f"temperature is for classification, whose predictions have probabilities, got 'fitted'"
            f" for {kind}; leave it out"
        )
    return faults


def _default(options: TrainOptions, name: str) -> Any:
    return type(options).__dataclass_fields__[name].default
