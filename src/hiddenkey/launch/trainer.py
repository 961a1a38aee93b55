"""The callback that ``hiddenkey run`` gives to transformers' Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from hiddenkey.integrations.callback import HiddenKeyCallback
from hiddenkey.integrations.running import trainer_that_calls
from hiddenkey.launch import process
from hiddenkey.launch.record import Record
from hiddenkey.launch.settings import LaunchSettings


class LaunchedCallback(HiddenKeyCallback):
    """Attaches to the model of the first Trainer that trains, and writes the record folder.

    Args:
        settings: what to attach.
        folder: of the record.
    """

    def __init__(self, settings: LaunchSettings, folder: Path) -> None:
        kernel: Any = settings.kernel
        super().__init__(
            settings.config(),
            kernel=kernel,
            inference=settings.used(),
            step_cost=settings.step_cost,
        )
        self._method, self._folder = settings.method, folder
        self._record: Record | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach where this trainer is the first one."""
        trainer = trainer_that_calls(self)
        if not process.is_first(trainer):
            return
        if self._record is not None:  # of a training that an exception ended
            self._record.close()
        super().on_train_begin(args, state, control, **kwargs)
        assert self.attachment is not None
        self._record = process.record_of(self._folder, self._method)
        about = {
            "trainer": type(trainer).__name__,
            "processes": args.world_size,
            "steps": state.max_steps,
            "examples": process.size_of(trainer.train_dataset),
            "eval_examples": process.size_of(trainer.eval_dataset),
        }
        self._record.begin(self.attachment, trainer.model, about)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the rates, and time the step."""
        super().on_step_begin(args, state, control, **kwargs)
        if self._record is not None:
            self._record.begin_step()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop the clock, and close the step's losses."""
        if self._record is not None:
            self._record.end_step()
        super().on_step_end(args, state, control, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add to the log, also after training, where scripts evaluate once more."""
        super().on_log(args, state, control, logs, **kwargs)
        if self._record is not None and logs is not None:
            self._record.log(logs, state.global_step, state.epoch)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the end of the record, and detach."""
        if self._record and self._watching and self.attachment:
            self._record.see(self._watching.read(args))  # of steps after the last log
            observed = self._watching.reached.means()
            self._record.finish(state.global_step, self.attachment, observed)
        super().on_train_end(args, state, control, **kwargs)
