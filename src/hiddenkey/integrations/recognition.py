"""Watches whether a temporal loss meets examples again, and says so where it does not."""

from __future__ import annotations

from typing import Final

from hiddenkey.errors import ConsistencyError
from hiddenkey.log import is_first_process, logger
from hiddenkey.step.history import History
from hiddenkey.step.identity import INDEX

LEAST_RECOGNISED = 0.05
"""Share of an epoch's examples that must have been seen before, or a warning is logged."""

_FEW_RECOGNISED: Final = (
    "the temporal loss recognised %d of the %d examples of an epoch (%.1f %%) from an earlier one,"
    " and compares no others. Augmentation, random masks, and packing that joins other texts each"
    " time make new examples: leave them off, or use target='pass'. Where only images or further"
    " inputs change, give each example a number in a column %s"
)


class Recognition:
    """What one training recognises of its examples, epoch by epoch.

    Args:
        history: of the attachment at work, with what a checkpoint held.
        source: the checkpoint, as a message names it; ``None`` in a new training.
        epochs: that are done.
    """

    def __init__(self, history: History, source: object = None, epochs: float = 0) -> None:
        self._history, self._source = history, source
        self._must_recognise = source is not None and len(history) > 0 and epochs >= 1
        self._is_first_epoch, self._warned = not self._must_recognise, False
        self._counts = _counts(history)

    def end_epoch(self) -> None:
        """Judge an epoch, and give each process what the others have seen; all must call this.

        Raises:
            ConsistencyError: if a resumed training knew none of its examples.
        """
        if self._history.passes > self._counts[0]:  # not where a resumed run only skipped batches
            self._judge()
        self._history.exchange()
        self._counts = _counts(self._history)

    def _judge(self) -> None:
        """Refuse, or warn of, an epoch whose examples an earlier one did not have."""
        if self._must_recognise and not self._history.recognised:
            raise ConsistencyError(
                f"the predictions in {self._source} are of other examples than those of this"
                " training: none of them came again in an epoch; go on with the data set that the"
                " checkpoint was trained on, or begin a new training"
            )
        visits = self._history.visits - self._counts[1]
        recognised = self._history.recognised - self._counts[2]
        is_judged = not (self._is_first_epoch or self._warned)
        self._must_recognise = self._is_first_epoch = False
        if is_judged and recognised < LEAST_RECOGNISED * visits and is_first_process():
            self._warned = True
            logger.warning(_FEW_RECOGNISED, recognised, visits, 100 * recognised / visits, INDEX)

    def report(self) -> None:
        """Log an error where the loss never had anything to compare with."""
        history = self._history
        if history.passes and not history.recognised and is_first_process():
            logger.error(
                "the temporal loss compared nothing: of %d examples none was seen twice; it needs"
                " more than one epoch, and examples that stay the same (no augmentation, no random"
                " masks, no labels that move, no endless stream)",
                len(history),
            )


def _counts(history: History) -> tuple[int, int, int]:
    """Return the passes so far, the examples that they saw, and how many of them were known."""
    return history.passes, history.visits, history.recognised
