"""Takes the predictions that a temporal loss compares with through a training and its checkpoints.

Each process writes what it has seen; whoever goes on from the checkpoint reads all of it, with any
number of processes.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import Tensor
from transformers import Trainer

from hiddenkey.attachment.attachment import Attachment
from hiddenkey.errors import ConsistencyError
from hiddenkey.files import write_whole
from hiddenkey.log import is_first_process, logger
from hiddenkey.step.identity import INDEX

_NAME: Final = "hiddenkey_history_{}.safetensors"
_FILE: Final = re.compile(r"hiddenkey_history_\d+\.safetensors")


class KeptPredictions:
    """The history of one attachment in one training; without a history it does nothing.

    Args:
        attachment: at work.
    """

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._checkpoint: Path | None = None
        self._must_recognise = False

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
        if checkpoint is None:
            history.load_state_dict()
            return
        files = sorted(path for path in checkpoint.iterdir() if _FILE.fullmatch(path.name))
        history.load_state_dict(*(_read(path) for path in files))
        self._must_recognise = len(history) > 0 and epochs >= 1
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
        if self._must_recognise and not history.recognised:
            raise ConsistencyError(
                f"the predictions in {self._checkpoint} are of other examples than those of this"
                " training: none of them came again in an epoch; go on with the data set that the"
                " checkpoint was trained on, or begin a new training"
            )
        self._must_recognise = False
        history.exchange()

    def save(self, folder: Path, rank: int) -> None:
        """Write what this process has seen into a checkpoint.

        Args:
            folder: of the checkpoint.
            rank: of this process.
        """
        history = self._attachment.history
        if history is None or not folder.is_dir():
            return
        from safetensors.torch import save

        write_whole(folder / _NAME.format(rank), save(history.state_dict()))

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

    Raises:
        ConsistencyError: if the training data have one and ``remove_unused_columns`` is set.
    """
    data = trainer.train_dataset
    names = getattr(data, "column_names", None)
    if names is None and isinstance(data, list) and data and isinstance(data[0], Mapping):
        names = list(data[0])
    if trainer.args.remove_unused_columns and INDEX in (names or ()):
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
