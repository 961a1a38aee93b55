"""Trains on the consistency loss under TRL, whose ``SFTTrainer`` does not use ``output.loss``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from trl import SFTTrainer

from hiddenkey.attachment.attachment import Attachment, attachment_of
from hiddenkey.chunked_loss.reference import reference_loss
from hiddenkey.chunked_loss.sums import IGNORED_LABEL, Sums
from hiddenkey.errors import ConfigError, ConsistencyError


class ConsistencySFTTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's ``SFTTrainer`` for a model with an attached consistency loss.

    Attach to the trainer's own model, which may have become a ``PeftModel``::

        trainer = ConsistencySFTTrainer(model, args=SFTConfig(...), peft_config=..., ...)
        attachment = hiddenkey.attach(trainer.model, "hiddenkey")
        watch(trainer, attachment)
        trainer.train()

    Evaluation, and training without a consistency loss, are TRL's own; so are label smoothing and
    ``compute_loss_func``, to whose results ``watch`` adds the consistency loss.

    Raises:
        ConfigError: in training, if a consistency loss meets ``loss_type='dft'``.
        ConsistencyError: in training, if a configured consistency loss did not see a pass.
    """

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return TRL's loss, or the attached model's own in place of its fused one."""
        attachment = attachment_of(self.model)
        if (
            attachment is None
            or attachment.config.consistency is None
            or not self.model.training
            or not torch.is_grad_enabled()
            or self.compute_loss_func is not None
            or (self.label_smoother is not None and self.args.loss_type == "nll")
        ):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.args.loss_type != "nll":
            raise ConfigError(
                "loss_type must be 'nll' with a consistency loss, which is added to the model's own"
                f" loss, got {self.args.loss_type!r}; leave it out, or set consistency=None"
            )
        coefficient = self.router_aux_loss_coef if self.aux_loss_enabled else 0.0
        attached: Any = _AttachedModel(model, attachment, num_items_in_batch, coefficient)
        return super().compute_loss(attached, inputs, return_outputs, num_items_in_batch)


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
