"""Takes the predictions that a temporal loss compares with through a training and its checkpoints.

Each process writes what it has seen; whoever goes on from the checkpoint reads all of it, with any
number of processes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from accelerate import PartialState
from torch import Tensor
from transformers import Trainer
from transformers.trainer_utils import RemoveColumnsCollator

from hiddenkey.attachment.attachment import Attachment
from hiddenkey.errors import ConsistencyError
from hiddenkey.files import write_whole
from hiddenkey.integrations.recognition import Recognition
from hiddenkey.log import logger
from hiddenkey.step.identity import INDEX

_NAME: Final = "hiddenkey_history_{}.safetensors"
_FILE: Final = re.compile(r"hiddenkey_history_(\d+)\.safetensors")


class KeptPredictions:
    """The history of one attachment in one training; without a history it does nothing.

    Args:
        attachment: at work.
    """

    def __init__(self, attachment: Attachment) -> None:
        self._history = attachment.history
        self._recognition: Recognition | None = None

    def begin(self, checkpoint: Path | None, epochs: float) -> None:
        """Begin a training, or go on with one.

        Args:
            checkpoint: folder to go on from; ``None`` for a new training.
            epochs: that are done.

        Raises:
            ConsistencyError: if what the checkpoint holds is damaged.
        """
        history = self._history
        if history is None:
            return
        entries = [] if checkpoint is None else checkpoint.iterdir()
        files = sorted(path for path in entries if _FILE.fullmatch(path.name))
        history.load_state_dict(*(_read(path) for path in files))
        self._recognition = Recognition(history, checkpoint, epochs)
        if checkpoint is not None and not files:
            logger.warning(
                "%s holds no predictions, so that the temporal loss begins after one more epoch",
                checkpoint,
            )

    def end_epoch(self) -> None:
        """Give each process what the others have seen; all of them must call this.

        Raises:
            ConsistencyError: if a resumed training knew none of its examples.
        """
        if self._recognition is not None:
            self._recognition.end_epoch()

    def save(self, folder: Path, rank: int) -> None:
        """Write what this process has seen into a checkpoint, in place of an older run's.

        Args:
            folder: of the checkpoint.
            rank: of this process.
        """
        history = self._history
        if history is None or not folder.is_dir():
            return
        from safetensors.torch import save

        write_whole(folder / _NAME.format(rank), save(history.state_dict()))
        _remove_others(folder)

    def report(self) -> None:
        """Log an error where the loss never had anything to compare with."""
        if self._recognition is not None:
            self._recognition.report()


def refuse_dropped_numbers(trainer: Trainer) -> None:
    """Refuse a column of the examples' numbers that Trainer would drop before the model is called.

    Data that do not tell their columns are not asked for an item, which may be there once: their
    first batch is refused.

    Raises:
        ConsistencyError: if the training data have one and ``remove_unused_columns`` is set.
    """
    if not trainer.args.remove_unused_columns:
        return
    data = trainer.train_dataset
    names = getattr(data, "column_names", None)
    if names is None and isinstance(data, list) and data and isinstance(data[0], Mapping):
        names = list(data[0])
    _refuse_number(names or ())
    loader = trainer.callback_handler.train_dataloader
    loader = getattr(loader, "base_dataloader", loader)  # accelerate's hands what it is set to on
    if isinstance(getattr(loader, "collate_fn", None), RemoveColumnsCollator):
        loader.collate_fn = _Watched(loader.collate_fn)


class _Watched:
    """Trainer's collator that drops columns, which sees the items before.

    Args:
        collator: what it does with a batch's items.
    """

    def __init__(self, collator: Callable[[Sequence[Any]], Any]) -> None:
        self._collator = collator

    def __call__(self, items: Sequence[Any]) -> Any:
        if items and isinstance(items[0], Mapping):
            _refuse_number(items[0])
        return self._collator(items)


def _refuse_number(names: Collection[str]) -> None:
    if INDEX in names:
        raise ConsistencyError(
            f"the training data have a column {INDEX}, which Trainer drops, so that examples would"
            " be recognised by what they hold; set remove_unused_columns=False in its arguments, or"
            " leave the column out"
        )


def _remove_others(folder: Path) -> None:
    """Remove what a run of more processes left in a folder that is used again."""
    processes = PartialState().num_processes
    for path in folder.iterdir():
        name = _FILE.fullmatch(path.name)
        if name and int(name[1]) >= processes:
            path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ConsistencyError(
            f"{path} cannot be read ({error}); go on from another checkpoint, or delete the file:"
            " the temporal loss then begins after one more epoch"
        ) from None
