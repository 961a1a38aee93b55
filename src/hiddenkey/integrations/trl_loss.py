"""The loss of a pass under TRL's ``SFTTrainer``: its own, computed from the attached model's.

TRL is not imported here: a trainer of its kind is known by the name of its class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hiddenkey.attachment.attachment import Attachment, attachment_of
from hiddenkey.chunked_loss.reference import reference_loss
from hiddenkey.chunked_loss.sums import IGNORED_LABEL, Sums
from hiddenkey.errors import ConfigError, ConsistencyError


def is_sft(trainer: Any) -> bool:
    """Whether a trainer is TRL's ``SFTTrainer`` or made from it."""
    return any(
        kind.__name__ == "SFTTrainer" and kind.__module__.partition(".")[0] == "trl"
        for kind in type(trainer).__mro__
    )


def sft_loss(
    trainer: Any,
    plain: Callable[..., Any],
    model: Any,
    inputs: dict[str, Any],
    return_outputs: bool = False,
    num_items_in_batch: Tensor | int | None = None,
) -> Any:
    """Return what ``plain`` returns, computed from the attached model's own loss where it has one.

    Args:
        trainer: TRL's ``SFTTrainer``, or one made from it.
        plain: its ``compute_loss``.
        model: and all that follows: what ``compute_loss`` is called with.
        inputs: the batch.
        return_outputs: whether the model's outputs are returned too.
        num_items_in_batch: labelled tokens of the whole accumulated batch.

    Raises:
        ConfigError: if a consistency loss meets ``loss_type='dft'``.
        ConsistencyError: if a configured consistency loss did not see the pass.
    """
    attachment = attachment_of(trainer.model)
    if attachment is None or _is_plain(trainer, attachment, model):
        return plain(model, inputs, return_outputs, num_items_in_batch)
    if trainer.args.loss_type != "nll":
        raise ConfigError(
            "loss_type must be 'nll' with a consistency loss, which is added to the model's own"
            f" loss, got {trainer.args.loss_type!r}; leave it out, or set consistency=None"
        )
    coefficient = trainer.router_aux_loss_coef if trainer.aux_loss_enabled else 0.0
    attached = _AttachedModel(model, attachment, num_items_in_batch, coefficient)
    return plain(attached, inputs, return_outputs, num_items_in_batch)


def _is_plain(trainer: Any, attachment: Attachment, model: Any) -> bool:
    """Whether TRL's loss needs nothing: no consistency loss is due, or it is added elsewhere."""
    return (
        isinstance(model, _AttachedModel)
        or attachment.config.consistency is None
        or not trainer.model.training
        or not torch.is_grad_enabled()
        or trainer.compute_loss_func is not None
        or (trainer.label_smoother is not None and trainer.args.loss_type == "nll")
    )


@dataclass
class _FusedOutput:
    """What ``SFTTrainer.compute_loss`` reads of the output of TRL's fused head."""

    log_probs: Tensor
    entropy: Tensor
    is_top1: Tensor
    label_mask: Tensor
    aux_loss: Tensor | None


class _AttachedModel:
    """Answers TRL's calls of its fused head with the attached model's own loss.

    Scaling, averaging over processes, auxiliary losses and metrics stay TRL's.
    """

    def __init__(
        self,
        model: nn.Module,
        attachment: Attachment,
        items: Tensor | int | None,
        aux_coefficient: float,
    ) -> None:
        self._model, self._attachment = model, attachment
        self._items, self._aux_coefficient = items, aux_coefficient

    def __call__(self, *, fused_lm_head: bool = False, **inputs: Any) -> Any:
        if not fused_lm_head:
            return self._model(**inputs)
        if self._items is not None:
            inputs["num_items_in_batch"] = self._items
        before = self._attachment.consistency_passes
        output = self._model(**inputs)
        if self._attachment.consistency_passes == before:
            raise ConsistencyError(
                "a consistency loss is configured but did not see this training pass: the model is"
                " called past its hooks; attach to trainer.model"
            )
        sums = self._attachment.lm_sums or _sums(output.logits, inputs)
        loss, aux = output.loss, getattr(output, "aux_loss", None)
        if aux is not None:
            loss = loss - self._aux_coefficient * aux
        count = torch.tensor(sums.rows, device=loss.device)
        units = count if self._items is None else self._items
        # TRL sums what is here, changes its sign and divides it by the same number
        return _FusedOutput(
            log_probs=-loss * torch.as_tensor(units).clamp(min=1),
            entropy=sums.entropy,
            is_top1=sums.correct,
            label_mask=count,
            aux_loss=aux,
        )


@torch.no_grad()
def _sums(logits: Tensor, inputs: dict[str, Any]) -> Sums:
    """Return the sums of a pass that had its logits."""
    labels = inputs.get("shift_labels")
    if labels is None:
        labels = nn.functional.pad(inputs["labels"][:, 1:], (0, 1), value=IGNORED_LABEL)
    labelled = labels != IGNORED_LABEL
    return reference_loss(logits[labelled], labels[labelled])
