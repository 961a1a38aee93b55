"""The studies' commands, and how one is run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Final

from hiddenkey.cli.commands import Command, listing
from hiddenkey.errors import ConfigError

STUDIES: Final[Mapping[str, Command]] = {
    "beyond_transformers": Command(
        "patterns of the hidden position in a recurrent and a convolutional network",
        "beyond_transformers.command",
        "beyond_transformers.options:BeyondOptions",
    ),
    "continual": Command(
        "forgetting and final accuracy of one adapter that learns tasks in sequence",
        "continual.command",
        "continual.options:ContinualOptions",
    ),
    "gradient_noise": Command(
        "bias and noise of LoRA's gradients under DropKey and DropAttention, equal masks",
        "gradient_noise.command",
        "gradient_noise.options:GradientNoiseOptions",
    ),
    "gradient_noise_runs": Command(
        "the same over several training runs: tasks, models and seeds",
        "gradient_noise_runs.command",
        "gradient_noise_runs.options:NoiseRunsOptions",
    ),
    "overfitting": Command(
        "generalisation gap, calibration and confidence, with and without a method",
        "overfitting.command",
        "overfitting.options:OverfittingOptions",
        leading="folders",
    ),
    "rate_transfer": Command(
        "what one dropout rate for all tasks loses against each task's best",
        "rate_transfer.command",
        "rate_transfer.options:TransferOptions",
        leading="folders",
    ),
}
_USER_ERROR: Final = 2


def main(words: Sequence[str]) -> int:
    """Run the study that the first word names and return its exit status, 2 for a user's error."""
    name, *rest = words or [""]
    if name not in STUDIES:
        print(f"give one of these studies:\n{listing(STUDIES)}", file=sys.stderr)
        return _USER_ERROR
    try:
        return STUDIES[name].run(f"python studies/{name}", rest)
    except ConfigError as error:
        print("\n".join(f"{name}: error: {fault}" for fault in error.faults), file=sys.stderr)
        return _USER_ERROR
