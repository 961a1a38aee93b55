"""Shows in transformers' Trainer that an attached method is at work."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hiddenkey.attachment import Attachment
from hiddenkey.errors import ConsistencyError

# Trainer's state keeps dictionaries like this one in a checkpoint. The name must not be that of a
# callback, which Trainer would try to build anew from it.
_STATE = "hiddenkey"


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
    trainer.callback_handler.callbacks.insert(0, AttachmentCallback(trainer, attachment))


class AttachmentCallback(TrainerCallback):  # type: ignore[misc]
    """See :func:`watch`, which puts it before the reporters' callbacks."""

    def __init__(self, trainer: Trainer, attachment: Attachment) -> None:
        self._trainer = trainer
        self._attachment = attachment
        self._passes_at_step_begin = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Go on counting passes where a resumed run stood."""
        stored = state.stateful_callbacks.get(_STATE)
        passes = stored["attributes"]["passes"] if isinstance(stored, dict) else 0
        self._attachment.consistency_passes = passes

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Remember how many passes there were."""
        self._passes_at_step_begin = self._attachment.consistency_passes

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Close the step's losses; refuse to go on if its passes went around the attachment."""
        passes = self._attachment.consistency_passes
        configured = self._attachment.config.consistency is not None
        if configured and passes == self._passes_at_step_begin:
            raise ConsistencyError(
                "a consistency loss is configured but did not see this training step: the Trainer's"
                " model is not the attached one, or its forward is called past its hooks; attach to"
                " the model that is given to the Trainer"
            )
        self._attachment.meter.end_step(mean=not _sums_over_passes(self._trainer))
        state.stateful_callbacks[_STATE] = {"args": {}, "attributes": {"passes": passes}}

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
        losses = self._attachment.meter.read()
        parts = {f"{name}_loss": value for name, value in losses.items()}
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


def _sums_over_passes(trainer: Trainer) -> bool:
    """Whether Trainer adds up the losses of a step's passes, instead of averaging them.

    It does where it takes the loss for divided by ``num_items_in_batch`` already, rightly or not.
    """
    if (set_by_user := trainer.loss_is_scaled_for_ga) is not None:
        return bool(set_by_user)
    return bool(trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None)
