"""A callback for transformers' Trainer that attaches a method for the length of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hiddenkey.attachment.attachment import Attachment, attachment_of
from hiddenkey.attachment.plan import Kernel
from hiddenkey.framework.config import DropoutConfig
from hiddenkey.framework.inference import Inference
from hiddenkey.framework.schedule import RateSchedule
from hiddenkey.integrations.averaging import AveragingCallback
from hiddenkey.integrations.checkpoints import leave_checkpoints
from hiddenkey.integrations.configured import attach_and_say, configured
from hiddenkey.integrations.running import trainer_that_calls
from hiddenkey.integrations.trainer import AttachmentCallback, watching
from hiddenkey.integrations.trainer_loss import release_own_loss
from hiddenkey.step.added_loss import LanguageModelLoss

_CALLBACKS: WeakKeyDictionary[Attachment, ref[HiddenKeyCallback]] = WeakKeyDictionary()
"""Whose each attachment is; neither is kept for it."""


class HiddenKeyCallback(TrainerCallback):  # type: ignore[misc]
    """Attaches a method when a training begins, and detaches it at the end.

    ::

        Trainer(..., callbacks=[HiddenKeyCallback("hiddenkey", rate=0.1)])

    It attaches to the model that is trained, also where ``model_init`` makes a new one each time,
    and does all that :func:`hiddenkey.integrations.trainer.watch` does. At the end it writes
    ``hiddenkey_config.json`` into ``args.output_dir``. Under TRL's ``SFTTrainer`` it lets the
    trainer train on the consistency loss. After a training that an exception ended, the model stays
    attached until its next training, by this callback or another one, or :meth:`detach`.

    In a single process masks come from random numbers of their own, as they do in several. So
    methods that are compared at one seed see the same batches.

    Args:
        config: name of a method, or a configuration.
        rate: dropout rate of all drops of a named method; ``None`` keeps its own.
        rates: rates of a named method by position; they win over ``rate``.
        schedules: factors of the rates by step.
        per_layer: log the observed drop rate of each layer, in place of their mean.
        step_cost: measure on the first batch what a step costs; see
            :func:`hiddenkey.integrations.trainer.watch`.
        keep_model_dropout: leave the model's own dropout on; ``None`` does what ``config`` says.
        kernel: see :func:`hiddenkey.attach`.
        lm_loss: see :func:`hiddenkey.attach`.
        inference: which weights are evaluated, and left in the model at the end: ``last``,
            ``average``, ``ema`` or an :class:`~hiddenkey.Inference`; see
            :class:`~hiddenkey.integrations.averaging.AveragingCallback`.

    Raises:
        ConfigError: if the method, a rate or the configuration is wrong. When training begins, if
            it does not fit the model, and what :func:`watch` raises.
        AttachError: when training begins, if the model has an attachment already.

    Attributes:
        config: the configuration.
        attachment: what is at work; ``None`` outside of training.
        averaging: keeps the mean of the weights; ``None`` before training, and without a mean.
    """

    def __init__(
        self,
        config: str | DropoutConfig = "hiddenkey",
        rate: float | None = None,
        *,
        rates: Mapping[str, float] | None = None,
        schedules: Sequence[RateSchedule] = (),
        per_layer: bool = False,
        step_cost: bool = False,
        keep_model_dropout: bool | None = None,
        kernel: Kernel = "auto",
        lm_loss: LanguageModelLoss = "auto",
        inference: str | Inference = "last",
    ) -> None:
        self.config = configured(config, rate, rates, keep_model_dropout)
        self.averaging: AveragingCallback | None = None
        self._inference = inference if isinstance(inference, Inference) else Inference(inference)
        self.attachment: Attachment | None = None
        self._schedules = tuple(schedules)
        self._per_layer, self._step_cost = per_layer, step_cost
        self._kernel, self._lm_loss = kernel, lm_loss
        self._trainer: Trainer | None = None
        self._watching: AttachmentCallback | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach to the model that is trained now."""
        self.detach()  # what a training that an exception ended left
        self._trainer = trainer = trainer_that_calls(self)
        _detach_abandoned(trainer)
        self.attachment = attach_and_say(trainer.model, self.config, self._kernel, self._lm_loss)
        _CALLBACKS[self.attachment] = ref(self)
        try:
            self._watching = watching(
                trainer,
                self.attachment,
                self._schedules,
                per_layer=self._per_layer,
                step_cost=self._step_cost,
            )
            self._watching.on_train_begin(args, state, control)
            if self._inference.weights != "last":
                self.averaging = AveragingCallback(trainer, self._inference)
                self.averaging.on_train_begin(args, state, control)
        except BaseException:
            self.detach()
            raise
        # Reporters stand before the callbacks of a script, and shall see what is added to the logs.
        # What moves to the front of a list that is walked through is not met twice.
        callbacks = trainer.callback_handler.callbacks
        callbacks.remove(self)
        callbacks.insert(0, self)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let processes exchange the predictions that a temporal loss compares with."""
        if self._watching is not None:
            self._watching.on_epoch_end(args, state, control)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the step's rates."""
        if self._watching is not None:
            self._watching.on_step_begin(args, state, control)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the step's losses."""
        if self._watching is not None:
            self._watching.on_step_end(args, state, control)
            if self.averaging is not None:
                self.averaging.on_step_end(args, state, control)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the loss parts, the rates and the observed drop rates to a training log."""
        if self._watching is not None:
            self._watching.on_log(args, state, control, logs)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the configuration, and the mean of the weights, beside the checkpoint's adapter."""
        if self._watching is not None:
            self._watching.on_save(args, state, control)
            if self.averaging is not None:
                self.averaging.on_save(args, state, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Detach, and write the configuration into the output folder."""
        if self._watching is None:
            return
        self._watching.on_train_end(args, state, control)
        if self.averaging is not None:
            self.averaging.on_train_end(args, state, control)
        self.detach()
        if state.is_world_process_zero and args.output_dir is not None:
            self.config.save_pretrained(args.output_dir)

    def detach(self) -> None:
        """Give model and trainer back as they were. Does nothing twice."""
        if self.attachment is not None:
            self.attachment.detach()
        if self._trainer is not None:
            release_own_loss(self._trainer)
            leave_checkpoints(self._trainer)
        if self.averaging is not None:
            self.averaging.release()
        self.attachment = self._watching = self._trainer = None


def _detach_abandoned(trainer: Trainer) -> None:
    """Detach what the callback of another trainer left on the model when an exception ended it.

    A cell of a notebook that is run again makes both anew.
    """
    found = attachment_of(trainer.model)
    if found is None or found not in _CALLBACKS:
        return
    other = _CALLBACKS[found]()
    if other is None:
        found.detach()
    elif other not in trainer.callback_handler.callbacks:
        other.detach()
