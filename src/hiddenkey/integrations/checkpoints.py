"""Where transformers' Trainer writes the checkpoints of a training, and what is put beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def checkpoint_now(trainer: Trainer, state: TrainerState) -> Path:
    """Return the folder of the checkpoint that belongs to the step which a training is at.

    A trial of ``hyperparameter_search`` has a folder of its own inside of ``args.output_dir``, of
    which Trainer does not tell its callbacks.
    """
    folder = trainer._get_output_dir(getattr(trainer, "_trial", None))
    return Path(folder) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def write_with(trainer: Trainer, callback: TrainerCallback) -> None:
    """Let a callback's ``on_save`` follow the checkpoint that a SIGTERM asks for as well.

    Trainer writes it for ``enable_jit_checkpoint`` and tells no callback. Does nothing twice.

    Args:
        trainer: whose training has begun.
        callback: writes its files into the checkpoint of the trainer's step.
    """
    if not getattr(trainer.args, "enable_jit_checkpoint", False):
        return
    save = trainer._save_checkpoint
    if not isinstance(save, _SavesBeside):
        save = trainer._save_checkpoint = _SavesBeside(trainer, save)
    if callback not in save.callbacks:
        save.callbacks.append(callback)


def leave_checkpoints(trainer: Trainer) -> None:
    """Give a trainer back what :func:`write_with` replaced. Does nothing twice."""
    if isinstance(held := vars(trainer).get("_save_checkpoint"), _SavesBeside):
        del trainer._save_checkpoint
        if trainer._save_checkpoint != held.plain:  # an instance's own
            trainer._save_checkpoint = held.plain


class _SavesBeside:
    """Stands in for ``Trainer._save_checkpoint``."""

    def __init__(self, trainer: Trainer, plain: Any) -> None:
        self.plain = plain
        self.callbacks: list[TrainerCallback] = []
        self._trainer = trainer

    def __call__(self, *given: Any, **named: Any) -> None:
        self.plain(*given, **named)
        trainer = self._trainer
        for callback in self.callbacks:
            callback.on_save(trainer.args, trainer.state, trainer.control)
