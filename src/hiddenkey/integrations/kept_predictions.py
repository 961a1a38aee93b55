"""Takes the predictions that a temporal loss compares with through a training and its checkpoints.

Each process writes what it has seen; whoever goes on from the checkpoint reads all of it, with any
number of processes.
"""

from __future__ import annotations

import os
import re
import sys
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
from hiddenkey.log import is_first_process, logger
from hiddenkey.step.history import History
from hiddenkey.step.identity import INDEX

_NAME: Final = "hiddenkey_history_{}.safetensors"
_FILE: Final = re.compile(r"hiddenkey_history_(\d+)\.safetensors")
LEAST_RECOGNISED = 0.05
"""Share of an epoch's examples that must have been seen before, or a warning is logged."""

_FEW_RECOGNISED: Final = (
    "the temporal loss recognised %d of the %d examples of an epoch (%.1f %%) from an earlier one,"
    " and compares no others. Augmentation, random masks, and packing that joins other texts each"
    " time make new examples: leave them off, or use target='pass'. Where only images or further"
    " inputs change, give each example a number in a column %s"
)


class KeptPredictions:
    """The history of one attachment in one training; without a history it does nothing.

    Args:
        attachment: at work.
    """

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._checkpoint: Path | None = None
        self._must_recognise = False
        self._is_first_epoch, self._warned = True, False
        self._counts = 0, 0, 0

    def begin(self, checkpoint: Path | None, epochs: float) -> None:
        """Begin a training, or go on with one.

        Args:
            checkpoint: folder to go on from; ``None`` for a new training.
            epochs: that are done.

        Raises:
            ConsistencyError: if what the checkpoint holds is damaged.
        """
        history = self._attachment.history
        if history is None:
            return
        self._checkpoint, self._must_recognise = checkpoint, False
        self._is_first_epoch, self._warned = True, False
        if checkpoint is None:
            history.load_state_dict()
            self._counts = _counts(history)
            return
        files = sorted(path for path in checkpoint.iterdir() if _FILE.fullmatch(path.name))
        history.load_state_dict(*(_read(path) for path in files))
        self._counts = _counts(history)
        self._must_recognise = len(history) > 0 and epochs >= 1
        self._is_first_epoch = not self._must_recognise
        if not files:
            logger.warning(
                "%s holds no predictions, so that the temporal loss begins after one more epoch",
                checkpoint,
            )

    def end_epoch(self) -> None:
        """Give each process what the others have seen; all of them must call this.

        Raises:
            ConsistencyError: if a resumed training knew none of its examples.
        """
        history = self._attachment.history
        if history is None:
            return
        if history.passes > self._counts[0]:  # not where a resumed run only skipped batches
            self._judge(history)
        history.exchange()
        self._counts = _counts(history)

    def _judge(self, history: History) -> None:
        """Refuse, or warn of, an epoch whose examples an earlier one did not have."""
        if self._must_recognise and not history.recognised:
            raise ConsistencyError(
                f"the predictions in {self._checkpoint} are of other examples than those of this"
                " training: none of them came again in an epoch; go on with the data set that the"
                " checkpoint was trained on, or begin a new training"
            )
        visits, recognised = history.visits - self._counts[1], history.recognised - self._counts[2]
        is_judged = not (self._is_first_epoch or self._warned)
        self._must_recognise = self._is_first_epoch = False
        if is_judged and recognised < LEAST_RECOGNISED * visits and is_first_process():
            self._warned = True
            logger.warning(_FEW_RECOGNISED, recognised, visits, 100 * recognised / visits, INDEX)

    def save(self, folder: Path, rank: int) -> None:
        """Write what this process has seen into a checkpoint, in place of an older run's.

        Args:
            folder: of the checkpoint.
            rank: of this process.
        """
        history = self._attachment.history
        if history is None or not folder.is_dir():
            return
        from safetensors.torch import save

        write_whole(folder / _NAME.format(rank), save(history.state_dict()))
        _remove_others(folder)

    def report(self) -> None:
        """Log an error where the loss never had anything to compare with."""
        history = self._attachment.history
        if history is not None and history.passes and not history.recognised and is_first_process():
            logger.error(
                "the temporal loss compared nothing: of %d examples none was seen twice; it needs"
                " more than one epoch, and examples that stay the same (no augmentation, no random"
                " masks, no labels that move, no endless stream)",
                len(history),
            )


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


def resumed_from() -> Path | None:
    """Return the checkpoint that the Trainer among the callers goes on from; ``None``: none.

    Trainer does not tell its callbacks.
    """
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        found = frame.f_locals
        if isinstance(found.get("self"), Trainer) and "resume_from_checkpoint" in found:
            folder = found["resume_from_checkpoint"]
            return Path(folder) if isinstance(folder, str | os.PathLike) else None
    return None


def _counts(history: History) -> tuple[int, int, int]:
    """Return the passes so far, the examples that they saw, and how many of them were known."""
    return history.passes, history.visits, history.recognised


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
