"""What happens inside of a process that ``hiddenkey run`` reached, once it builds a Trainer.

Every Trainer gets a callback, and the first one whose training begins gets the method. The first
one that is built would be the wrong one where a trainer builds another for its own use, or where a
script builds one only to evaluate. A hyperparameter search trains the same Trainer many times.
"""

from __future__ import annotations

import weakref
from collections.abc import Sized
from contextlib import suppress
from pathlib import Path
from typing import Any

from hiddenkey import log
from hiddenkey.launch.record import Record
from hiddenkey.launch.settings import read_environment
from hiddenkey.launch.stages import BUILT

_first: Any = None
"""A weak reference to the trainer that has the method."""


def trainer_was_built(trainer: Any) -> None:
    """Let a Trainer of transformers have the method, if it is the first to train."""
    from hiddenkey.launch.trainer import LaunchedCallback

    settings, folder = read_environment()
    _note_built(folder)
    trainer.add_callback(LaunchedCallback(settings, folder))


def lightning_was_built(trainer: Any) -> None:
    """Let a Trainer of Lightning have the method, if it is the first to train."""
    from hiddenkey.launch.lightning import LaunchedCallback

    settings, folder = read_environment()
    _note_built(folder)
    trainer.callbacks.insert(0, LaunchedCallback(settings, folder))


def _note_built(folder: Path) -> None:
    with suppress(FileNotFoundError):  # the command has ended, which left this process behind it
        (folder / BUILT).touch()


def is_first(trainer: Any) -> bool:
    """Whether this trainer is the first of the process to train; others are said to be plain."""
    global _first
    if _first is None:
        _first = weakref.ref(trainer)
    if _first() is trainer:
        return True
    if log.is_first_process():
        log.logger.info(
            "another trainer trains now (%s), and is left as it is: only the first one gets the"
            " method; run the command once for each, or attach in the script",
            type(trainer).__name__,
        )
    return False


def record_of(folder: Path, method: str) -> Record:
    """Return the record of a training; it is written by the first process alone."""
    return Record(folder if log.is_first_process() else None, method)


def size_of(data: Any) -> int | None:
    """Return the number of examples of a data set, or of several by name; ``None``: unknown."""
    if isinstance(data, dict):
        sizes = [size_of(part) for part in data.values()]
        return None if None in sizes else sum(size or 0 for size in sizes)
    return len(data) if isinstance(data, Sized) else None
