"""Trains on the consistency loss under TRL, whose ``SFTTrainer`` does not use ``output.loss``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from trl import SFTTrainer

from hiddenkey.integrations.trl_loss import sft_loss


class ConsistencySFTTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's ``SFTTrainer`` for a model with an attached consistency loss.

    Attach to the trainer's own model, which may have become a ``PeftModel``::

        trainer = ConsistencySFTTrainer(model, args=SFTConfig(...), peft_config=..., ...)
        attachment = hiddenkey.attach(trainer.model, "hiddenkey")
        watch(trainer, attachment)
        trainer.train()

    With ``watch`` or ``HiddenKeyCallback`` TRL's own class does the same. Evaluation, and training
    without a consistency loss, are TRL's own; so are label smoothing and ``compute_loss_func``, to
    whose results ``watch`` adds the consistency loss.

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
        plain = super().compute_loss
        return sft_loss(self, plain, model, inputs, return_outputs, num_items_in_batch)
