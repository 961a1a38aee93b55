"""Looks among the callers for a training of transformers' Trainer.

Trainer hands its callbacks neither itself nor what it was called with.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from hiddenkey.errors import AttachError

_RESUMES = "resume_from_checkpoint"
"""Argument of ``Trainer.train`` and of the loop that it runs."""


def trainer_that_calls(callback: TrainerCallback) -> Trainer:
    """Return the Trainer whose training begins.

    The loss is computed by a method of the trainer, and its settings say how it is scaled.

    Raises:
        AttachError: if no Trainer with this callback is among the callers.
    """
    for found in _callers():
        trainer = found.get("self")
        if isinstance(trainer, Trainer) and callback in trainer.callback_handler.callbacks:
            return trainer
    raise AttachError(
        "HiddenKeyCallback was called by no Trainer of transformers that has it among its"
        " callbacks, so it cannot reach the loss; use attach and watch(trainer, attachment), or"
        " attach alone in a loop of your own"
    )


def training_of(trainer: Trainer | None = None) -> Mapping[str, Any] | None:
    """Return the variables of a training that runs; ``None``: none does.

    Args:
        trainer: whose training; ``None``: any Trainer's.
    """
    for found in _callers():
        caller = found.get("self")
        if isinstance(caller, Trainer) and _RESUMES in found and trainer in (None, caller):
            return found
    return None


def resumed_from() -> Path | None:
    """Return the checkpoint that the training at work goes on from; ``None``: none."""
    folder = (training_of() or {}).get(_RESUMES)
    return Path(folder) if isinstance(folder, str | os.PathLike) else None


def _callers() -> Iterator[Mapping[str, Any]]:
    """Variables of the functions that called, from the nearest on."""
    frame = sys._getframe(1)
    while frame := frame.f_back:  # type: ignore[assignment]
        yield frame.f_locals
