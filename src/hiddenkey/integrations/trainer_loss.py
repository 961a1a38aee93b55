"""Adds the consistency loss where Trainer computes its loss outside of the model.

With label smoothing or a ``compute_loss_func``, Trainer takes the labels away from the model and
computes the loss of its logits. The pass is then held by :meth:`hiddenkey.Attachment.own_loss`, and
the function that computes the loss is replaced, for the length of one call, by one that adds the
consistency loss to its result: before Trainer's own scaling over processes. TRL's ``SFTTrainer``
computes its loss inside of the model, and :mod:`hiddenkey.integrations.trl_loss` serves it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from hiddenkey.attachment.attachment import Attachment
from hiddenkey.integrations.first_step import FirstStep
from hiddenkey.integrations.trl_loss import is_sft, sft_loss
from hiddenkey.step.items import uses_items
from hiddenkey.step.own_loss import OwnLoss


def hold_own_loss(
    trainer: Trainer, attachment: Attachment, first_step: FirstStep | None = None
) -> None:
    """Let ``trainer.compute_loss`` add the consistency loss to a loss that is not the model's.

    The method of the one trainer is replaced, and no class: it works with every subclass that
    computes its loss by ``label_smoother`` or ``compute_loss_func``, and a script that calls
    ``watch`` stays as it is. An earlier attachment's is replaced.

    Args:
        trainer: the trainer.
        attachment: on its model.
        first_step: measures the first computation of a loss; ``None``: nothing is measured.
    """
    before = trainer.compute_loss
    plain = before.plain if isinstance(before, _ComputeLoss) else before
    trainer.compute_loss = _ComputeLoss(trainer, attachment, plain, first_step)


def release_own_loss(trainer: Trainer) -> None:
    """Give a trainer back the ``compute_loss`` that :func:`hold_own_loss` replaced."""
    if isinstance(held := trainer.compute_loss, _ComputeLoss):
        del trainer.compute_loss
        if trainer.compute_loss != held.plain:  # an instance's own, or another class's
            trainer.compute_loss = held.plain


class _ComputeLoss:
    """Stands in for ``Trainer.compute_loss``."""

    def __init__(
        self, trainer: Trainer, attachment: Attachment, plain: Any, first_step: FirstStep | None
    ) -> None:
        self.plain = plain
        self._trainer, self._attachment = trainer, attachment
        self._first_step = first_step

    def __call__(self, model: nn.Module, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        """Compute the loss as ``Trainer.compute_loss`` does, with a subclass's own arguments."""
        try:
            if self._first_step is not None:
                # what computes a loss may take the labels out of the batch
                self._first_step.measure(
                    model, lambda: _loss(self._whole(model, copy.copy(inputs), *rest, **named))
                )
            computed = self._whole(model, inputs, *rest, **named)
            self._attachment.meter.end_computation()
            return computed
        except BaseException:
            self._attachment.leave_pass()  # Ctrl-C runs no hooks of the model
            raise

    def _whole(self, model: nn.Module, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        """The loss, with the consistency loss where one is due."""
        if self._attachment.config.consistency is None:  # nothing to add, whoever computes the loss
            return self.plain(model, inputs, *rest, **named)
        name = self._computes_loss()
        labels = inputs.get("labels")
        if name is None and is_sft(self._trainer):
            return sft_loss(self._trainer, self.plain, model, inputs, *rest, **named)
        if name is None or labels is None:
            return self.plain(model, inputs, *rest, **named)
        items = named.get("num_items_in_batch", rest[1] if len(rest) > 1 else None)
        if name == "compute_loss_func" and not uses_items(self._trainer.compute_loss_func):
            items = None  # the script's loss is a mean, whatever it is given
        with (
            self._attachment.own_loss(labels, items=items) as own,
            _adding(self._trainer, name, own),
        ):
            return self.plain(model, inputs, *rest, **named)

    def _computes_loss(self) -> str | None:
        """Return the trainer's attribute that computes the loss of the logits, if one does."""
        for name in ("compute_loss_func", "label_smoother"):
            if getattr(self._trainer, name, None) is not None:
                return name
        return None


def _loss(computed: Any) -> Tensor:
    """The loss of what ``compute_loss`` returned, with the model's outputs or without."""
    loss: Tensor = computed[0] if isinstance(computed, tuple) else computed
    return loss


@contextmanager
def _adding(trainer: Trainer, name: str, own: OwnLoss) -> Iterator[None]:
    """Let the loss function ``trainer.<name>`` return the whole loss."""
    function = getattr(trainer, name)

    def whole(*args: Any, **kwargs: Any) -> Tensor:
        return own.total(function(*args, **kwargs))

    setattr(trainer, name, whole)
    try:
        yield
    finally:
        setattr(trainer, name, function)
