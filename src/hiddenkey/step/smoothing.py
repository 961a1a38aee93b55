"""Label smoothing as a loss that is added to the task loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hiddenkey.errors import ConsistencyError
from hiddenkey.framework.compensation.smoothing import smoothed_rest
from hiddenkey.step.added_loss import AddedLoss, Run


class SmoothingLoss(AddedLoss):
    """ε (CE(uniform, P) − CE(labels, P)): with the task loss this is label smoothing.

    See :class:`AddedLoss` for its arguments.
    """

    def prepare(self, run: Run, arguments: Mapping[str, Any]) -> bool:
        """Count a pass, and check that its labels can be smoothed.

        Args:
            run: calls the model without its hooks.
            arguments: of the trained pass, by name.

        Returns:
            Whether the pass carries the loss.

        Raises:
            ConsistencyError: if the batch has no labels.
        """
        self.check_labels(arguments)
        self._verify(run, arguments)
        return self.due()

    def check_own_loss(self, labels: Tensor | None) -> None:
        """Refuse a loss from outside whose labels are not known.

        Args:
            labels: of the batch, or ``None``.

        Raises:
            ConsistencyError: if there are none.
        """
        super().check_own_loss(labels)
        if labels is None:
            raise ConsistencyError(
                "label smoothing needs the labels, but own_loss got none; use own_loss(labels)"
            )

    def begin(self, arguments: Mapping[str, Any], target: bool | None) -> None:
        """Prepare the trained pass, which comes next.

        Args:
            arguments: its own, by name.
            target: from :meth:`prepare`.
        """
        if self._chunked is not None:
            self._chunked.sums = None
            if target and self._may_chunk(arguments):
                self._chunked.begin(None)

    def after(
        self, output: Any, arguments: Mapping[str, Any], target: bool | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the trained pass's loss, and what smoothing adds to it."""
        if self._chunked is not None:
            parts = self._chunked.finish(output, None)
            if parts is not None:
                self._leave_without_logits(output)
                return parts
        task: Tensor | None = getattr(output, "loss", None)
        if not target:
            return task, None
        compared = self.compared
        compared.check(output)
        compared.check_loss(output)
        rows, shares = compared.rows(output, None, arguments)
        at_label = compared.at_labels(rows, output, arguments)
        known, units = compared.known(arguments), compared.units(arguments)
        if known is not None:
            shares = shares * known
            units = units if compared.is_sum(arguments) else known.sum().clamp_min(1)
        total = (smoothed_rest(rows, at_label) * shares).sum() / units
        extra = self.consistency.weight * total
        return (None if compared.is_own_loss else task + extra), extra  # type: ignore[operator]
