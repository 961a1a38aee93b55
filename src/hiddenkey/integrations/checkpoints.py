"""Where transformers' Trainer writes the checkpoints of a training."""

from __future__ import annotations

from pathlib import Path

from transformers import Trainer, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def checkpoint_now(trainer: Trainer, state: TrainerState) -> Path:
    """Return the folder of the checkpoint that belongs to the step which a training is at.

    A trial of ``hyperparameter_search`` has a folder of its own inside of ``args.output_dir``, of
    which Trainer does not tell its callbacks.
    """
    folder = trainer._get_output_dir(getattr(trainer, "_trial", None))
    return Path(folder) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
