"""Shows in transformers' Trainer that an attached method is at work, and changes its rates."""

from __future__ import annotations

import warnings
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hiddenkey.attachment.attachment import Attachment
from hiddenkey.errors import AttachError, ConfigError, ConsistencyError
from hiddenkey.framework.config import with_own_schedule
from hiddenkey.framework.schedule import RateSchedule, by_position
from hiddenkey.integrations.checkpoints import checkpoint_now, leave_checkpoints, write_with
from hiddenkey.integrations.first_step import FirstStep
from hiddenkey.integrations.kept_predictions import (
    KeptPredictions,
    refuse_dropped_numbers,
)
from hiddenkey.integrations.reached import ReachedSites
from hiddenkey.integrations.running import resumed_from
from hiddenkey.integrations.trainer_loss import hold_own_loss
from hiddenkey.step.parallel import means_over_processes

# Trainer's state keeps dictionaries like this one in a checkpoint. The name must not be that of a
# callback, which Trainer would try to build anew from it.
_STATE = "hiddenkey"


def watch(
    trainer: Trainer,
    attachment: Attachment,
    *schedules: RateSchedule,
    per_layer: bool = False,
    step_cost: bool = False,
) -> None:
    """Let ``trainer`` log what an attachment does, and change its rates by a schedule.

    Adds to each training log, before any reporter sees it: ``task_loss``, ``consistency_loss``,
    ``dropped/<position>``, the drop rate that was observed since the last log, as the mean over the
    layers, and with a schedule ``rate/<position>``, the mean rate of the layers in the last step.
    On several processes these are what ``loss`` is: means over all of them. Writes
    ``hiddenkey_config.json`` into each checkpoint. Under label smoothing and ``compute_loss_func``
    it adds the consistency loss to what these compute. Watching again replaces what was watched.

    Under TRL's ``SFTTrainer``, which does not train on ``output.loss``, it lets the trainer do so.

    Where TRL's ``disable_dropout`` is set, all rates become 0, with a warning.

    Args:
        trainer: the Trainer that trains the attached model.
        attachment: from :func:`hiddenkey.attach`.
        schedules: factors of the rates by step, after the configuration's own; where two name a
            position, the later one counts.
        per_layer: log ``dropped/<position>/<layer>`` instead.
        step_cost: measure on the first batch what a step costs with the method and without, which
            takes as long as some 14 steps, times the loss's ``every``, and log it once as
            ``step_cost``: 1.02 is 2 % more. See :meth:`hiddenkey.Attachment.step_cost`.

    Raises:
        ConsistencyError: if the trainer needs deterministic log-probabilities and a consistency
            loss is configured; during training, if a configured one never ran in a step.
        ConfigError: if a schedule does not fit the attachment, or meets ``disable_dropout``.
    """
    callback = watching(trainer, attachment, schedules, per_layer=per_layer, step_cost=step_cost)
    callbacks = trainer.callback_handler.callbacks
    callbacks[:] = [each for each in callbacks if not isinstance(each, AttachmentCallback)]
    callbacks.insert(0, callback)


def watching(
    trainer: Trainer,
    attachment: Attachment,
    schedules: tuple[RateSchedule, ...],
    *,
    per_layer: bool = False,
    step_cost: bool = False,
) -> AttachmentCallback:
    """Do what :func:`watch` does, but for putting the callback that it returns into the trainer."""
    _refuse_consistency(trainer, attachment)
    schedules = with_own_schedule(attachment.config, schedules)
    _obey_disable_dropout(trainer, attachment, schedules)
    for schedule in schedules:
        schedule.rates(attachment.sites, 0, 1)
    first_step = None
    if step_cost:
        first_step = FirstStep(trainer, attachment, follows_schedule=bool(schedules))
    hold_own_loss(trainer, attachment, first_step)
    return AttachmentCallback(trainer, attachment, schedules, first_step, per_layer=per_layer)


class AttachmentCallback(TrainerCallback):  # type: ignore[misc]
    """See :func:`watch`, which puts it before the reporters' callbacks."""

    def __init__(
        self,
        trainer: Trainer,
        attachment: Attachment,
        schedules: tuple[RateSchedule, ...],
        first_step: FirstStep | None = None,
        *,
        per_layer: bool = False,
    ) -> None:
        self._trainer = trainer
        self._first_step = first_step
        self._attachment = attachment
        self._schedules = schedules
        self._per_layer = per_layer
        self._passes_at_step_begin = 0
        self._steps = 0
        self.reached = ReachedSites(attachment)
        self._kept = KeptPredictions(attachment)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Go on counting passes where a resumed run stood; forget a start that was given up.

        Raises:
            AttachError: if the trainer's model does not have the attachment.
            ConsistencyError: if Trainer drops the numbers of the examples that a history needs, or
                if what a checkpoint holds of it is damaged.
        """
        if not self._attachment.is_in(self._trainer.model):
            raise AttachError(
                "the model that Trainer trains does not have the watched attachment: it was"
                " detached, or belongs to another model; attach to the model that is given to"
                " Trainer. With model_init Trainer makes a new one in each train(), as"
                " hyperparameter_search does: attach in model_init itself and leave watch out"
            )
        self._attachment.meter.clear()
        self._attachment.shares()
        self._steps, self.reached = 0, ReachedSites(self._attachment)
        stored = state.stateful_callbacks.get(_STATE)
        passes = stored["attributes"]["passes"] if isinstance(stored, dict) else 0
        self._attachment.consistency_passes = passes
        if self._attachment.history is not None:
            refuse_dropped_numbers(self._trainer)
        self._kept.begin(resumed_from(), state.epoch or 0)
        write_with(self._trainer, self)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Let processes exchange the predictions that a temporal loss compares with."""
        self._kept.end_epoch()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Set the step's rates, and remember how many passes there were."""
        rates: dict[str, float] = {}
        for schedule in self._schedules:
            rates |= schedule.rates(self._attachment.sites, state.global_step, state.max_steps)
        self._attachment.set_rates(rates)
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
        self._steps += 1
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
        """Add the loss parts, the rates and the observed drop rates to a training log."""
        if logs is None or "loss" not in logs:
            return
        parts = self.read(args)
        if self._attachment.config.consistency is None:
            # whoever computed it: DPO, GRPO and scripts may leave the model's own loss alone
            parts["task_loss"] = logs["loss"]
        if self._first_step is not None and (cost := self._first_step.read()) is not None:
            parts["step_cost"] = round(cost.ratio, 3)
        if self._schedules:
            rates = by_position(self._attachment.rates, self._attachment.sites)
            parts |= {f"rate/{position}": round(rate, 6) for position, rate in rates.items()}
        logs.update(parts)
        for entry in state.log_history[-1:]:  # a subclass's `log` may keep nothing
            if entry.get("step") == state.global_step and "loss" in entry:
                entry.update(parts)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Write the configuration and the kept predictions beside the checkpoint's adapter."""
        folder = checkpoint_now(self._trainer, state)
        if state.is_world_process_zero and folder.is_dir():
            self._attachment.config.save_pretrained(folder)
        self._kept.save(folder, args.process_index)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Log an error where no step of the training reached a site, or compared anything."""
        leave_checkpoints(self._trainer)
        self.reached.read(args.device)
        if self._steps and not _disables_dropout(self._trainer):  # which `watch` warned of
            self.reached.report()
            self._kept.report()

    def read(self, args: TrainingArguments) -> dict[str, float]:
        """Return the loss parts and observed drop rates since the last reading, by logs' names.

        On several processes all must call this.
        """
        losses = means_over_processes(self._attachment.meter.read(), args.device)
        added = _added_up_processes(self._trainer)
        parts = {f"{name}_loss": value * added for name, value in losses.items()}
        observed = self.reached.read(args.device, per_layer=self._per_layer)
        return parts | {f"dropped/{key}": round(share, 6) for key, share in observed.items()}


def _refuse_consistency(trainer: Trainer, attachment: Attachment) -> None:
    """Refuse a consistency loss where a trainer of TRL's compares log-probabilities.

    Those that do have a setting ``disable_dropout``; so has the trainer of reward models, whose
    loss is one of pairs.
    """
    if attachment.config.consistency is None or not hasattr(trainer.args, "disable_dropout"):
        return
    kinds = {kind.__name__ for kind in type(trainer).__mro__}
    reason = (
        "computes a loss of pairs from the model's rewards, to which it cannot be added"
        if "RewardTrainer" in kinds
        else "needs deterministic log-probabilities"
    )
    raise ConsistencyError(
        f"a consistency loss is configured, but {type(trainer).__name__} {reason}; set"
        " consistency=None"
    )


def _obey_disable_dropout(
    trainer: Trainer, attachment: Attachment, schedules: tuple[RateSchedule, ...]
) -> None:
    if not _disables_dropout(trainer):
        return
    if schedules:
        raise ConfigError(
            f"a schedule of the rates means nothing with disable_dropout=True, which"
            f" {type(trainer.args).__name__} has; set disable_dropout=False, or leave the schedule"
            " out"
        )
    if any(attachment.rates.values()):
        attachment.set_rates(dict.fromkeys(attachment.rates, 0.0))
        warnings.warn(
            f"{type(trainer.args).__name__} has disable_dropout=True, so the drops of this"
            " attachment are off too; set disable_dropout=False to train with them",
            stacklevel=4,
        )


def _disables_dropout(trainer: Trainer) -> bool:
    return bool(getattr(trainer.args, "disable_dropout", False))


def _added_up_processes(trainer: Trainer) -> int:
    """Return how many processes' losses make up Trainer's, which averages over all of them.

    Where it takes the loss for divided by the items of all processes, it multiplies it by these.
    """
    divided = trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None
    if not (divided and _counts_items(trainer) and trainer.args.average_tokens_across_devices):
        return 1
    return int(trainer.accelerator.num_processes // trainer.get_tp_size())


def _sums_over_passes(trainer: Trainer) -> bool:
    """Whether Trainer adds up the losses of a step's passes, instead of averaging them.

    It does where it takes the loss for divided by ``num_items_in_batch`` already, rightly or not.
    """
    # an attribute of later versions of transformers than the oldest
    if (set_by_user := getattr(trainer, "loss_is_scaled_for_ga", None)) is not None:
        return bool(set_by_user)
    divided = trainer.model_accepts_loss_kwargs and _counts_items(trainer)
    return bool(divided or trainer.compute_loss_func is not None)


def _counts_items(trainer: Trainer) -> bool:
    """Whether Trainer finds labels to count in a step's batches; answers have positions instead."""
    return "start_positions" not in (trainer.label_names or ())
