"""Shows in transformers' Trainer that an attached method is at work."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hiddenkey.attach import Attachment
from hiddenkey.errors import ConsistencyError


def watch(trainer: Trainer, attachment: Attachment) -> None:
    """Log what an attachment does through ``trainer``'s own logging.

    Adds to each training log, before any reporter sees it: ``task_loss``, ``consistency_loss`` and
    ``dropped/<position>/<layer>``, the share of units that really fell since the last log. Writes
    ``hiddenkey_config.json`` into each checkpoint.

    Args:
        trainer: the Trainer that trains the attached model.
        attachment: from :func:`hiddenkey.attach`.

    Raises:
        ConsistencyError: during training, if a configured consistency loss never ran in a step.
    """
    trainer.callback_handler.callbacks.insert(0, AttachmentCallback(attachment))


class AttachmentCallback(TrainerCallback):  # type: ignore[misc]
    """See :func:`watch`, which puts it before the reporters' callbacks."""

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._passes_at_step_begin = 0
        self._step_at_log = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Go on counting passes where a resumed run stood."""
        accumulation = args.gradient_accumulation_steps
        self._attachment.consistency_passes = state.global_step * accumulation
        self._step_at_log = state.global_step

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Remember how many passes there were."""
        self._passes_at_step_begin = self._attachment.consistency_passes

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Refuse to go on if the step's passes went around the attachment."""
        configured = self._attachment.config.consistency is not None
        if configured and self._attachment.consistency_passes == self._passes_at_step_begin:
            raise ConsistencyError(
                "a consistency loss is configured but did not see this training step: the Trainer's"
                " model is not the attached one, or its forward is called past its hooks; attach to"
                " the model that is given to the Trainer"
            )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Add the loss parts and the measured shares to a training log."""
        if logs is None or "loss" not in logs:
            return
        steps = max(1, state.global_step - self._step_at_log)
        self._step_at_log = state.global_step
        sums, passes = self._attachment.meter.read()
        count = steps if self._attachment.losses_by_items else max(1, passes)
        parts = {f"{name}_loss": total / count for name, total in sums.items()}
        for key, share in self._attachment.shares().items():
            if not math.isnan(share):
                parts[f"dropped/{key}"] = round(share, 6)
        logs.update(parts)
        state.log_history[-1].update(parts)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Write the configuration beside the checkpoint's adapter."""
        assert args.output_dir is not None
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            self._attachment.config.save_pretrained(folder)
