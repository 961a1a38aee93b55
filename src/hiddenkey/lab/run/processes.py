"""Runs that ``torchrun`` or ``accelerate launch`` starts as several data-parallel processes.

All of them train and evaluate; the first one alone writes the run folder.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hiddenkey.errors import ConfigError
from hiddenkey.log import is_first_process

if TYPE_CHECKING:
    from hiddenkey.lab.run.folder import RunFolder

_SHARDED = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


def count() -> int:
    """Return the number of processes, as the launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return is_first_process()


def join() -> None:
    """Join the other processes, if there are any.

    Raises:
        ConfigError: if the launcher was told to shard the model.
    """
    if count() == 1:
        return
    for variable, name in _SHARDED.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise ConfigError(
                f"hiddenkey train keeps the whole model in each process, got a launch with {name};"
                " launch it with torchrun, or train with a script of your own (docs/SCALE.md)"
            )
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.accelerator.is_available())


def wait() -> None:
    """Wait until all processes are here."""
    if count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def refuse_other_number(folder: RunFolder) -> None:
    """Refuse to resume a run whose steps had another number of examples.

    Raises:
        ConfigError: if the run was made by another number of processes.
    """
    before = folder.read_environment().get("processes", 1)
    if before != count():
        raise ConfigError(
            f"{folder.path}: a resumed run must keep its number of processes, for each adds"
            f" batch_size examples to a step, it was {before}, got {count()}; launch as many, or"
            " name another folder"
        )
