"""A loss that a training script computes by itself, from the outputs of an attached model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from torch import Tensor

from hiddenkey.errors import ConsistencyError


class OwnLoss:
    """One training pass and its loss; from :meth:`hiddenkey.Attachment.own_loss`.

    Args:
        labels: what the loss compares with, as the model would take them; see ``own_loss``.
        items: divisor of a loss that is a sum; ``None`` where it is a mean.
        expects_pass: whether a training pass must have been seen when the loss is added up.
        record: gets the task loss and the consistency loss of a training pass.
        close: called when the block ends.
    """

    def __init__(
        self,
        labels: Tensor | None,
        items: Tensor | int | None,
        *,
        expects_pass: Callable[[], bool],
        record: Callable[[Tensor, Tensor | None], None],
        close: Callable[[], None],
    ) -> None:
        self._given = {"labels": labels, "num_items_in_batch": items}
        self._expects_pass = expects_pass
        self._record = record
        self._close = close
        self._given_to_model: frozenset[str] = frozenset()
        self._passes = 0
        self._consistency: Tensor | None = None
        self._is_taken = False

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of the model that is made inside of the block holds none of its own."""

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Nor does one that is loaded."""
        return type(None), ()

    def __enter__(self) -> OwnLoss:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
        if kind is None and self._passes and not self._is_taken:
            raise ConsistencyError(
                "a training pass ran inside own_loss, but its loss was not added up, so that a"
                " consistency loss would be lost; train on own.total(your_loss)"
            )

    def total(self, task: Tensor) -> Tensor:
        """Return the loss to train on: the task loss, and the consistency loss where one is due.

        Outside of training, and without a consistency loss, it is the task loss.

        Args:
            task: the script's own loss of the pass, a scalar.

        Raises:
            ConsistencyError: if no training pass of the attached model came before, or if the loss
                has been added up already.
        """
        if self._is_taken:
            raise ConsistencyError(
                "own.total was called twice for one training pass; call it once, with the whole"
                " task loss"
            )
        if not self._passes:
            if self._expects_pass():
                raise ConsistencyError(
                    "own_loss saw no training pass of the attached model; call the model that was"
                    " attached inside the with block, before own.total"
                )
            return task
        self._is_taken = True
        self._record(task, self._consistency)
        return task if self._consistency is None else task + self._consistency

    def complete(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return a model call's arguments with what the comparison of two passes needs."""
        self._given_to_model = frozenset(arguments)
        return {**arguments, **self._given}

    def reduce(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return what :meth:`complete` gave, without what the script does not give to the model."""
        return {
            name: value
            for name, value in arguments.items()
            if name not in self._given or name in self._given_to_model
        }

    def receive(self, consistency: Tensor | None) -> None:
        """Take over what a training pass leaves to be added; ``None`` for nothing.

        Raises:
            ConsistencyError: if it is not the first pass.
        """
        self._passes += 1
        if self._passes > 1:
            raise ConsistencyError(
                f"own_loss is for one training pass, got {self._passes}; open one for each call of"
                " the model, or set consistency=None"
            )
        self._consistency = consistency
