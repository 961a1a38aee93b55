"""The mean of the weights in transformers' Trainer: for evaluations, in checkpoints, at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hiddenkey import log
from hiddenkey.errors import AttachError
from hiddenkey.framework.inference import Inference
from hiddenkey.integrations.checkpoints import checkpoint_now, write_with
from hiddenkey.integrations.running import resumed_from, training_of
from hiddenkey.step.averaging import WeightAverage

PREFIX = "hiddenkey_mean_"
"""Beginning of the names of the means' files in a checkpoint."""


class AveragingCallback(TrainerCallback):  # type: ignore[misc]
    """Averages the weights of a Trainer's model, once for each optimiser step.

    Evaluations see the mean. Checkpoints hold the last weights, to go on with, and the mean in a
    file of its own (:meth:`file`). At the end the mean stays in the model, of the best checkpoint
    with ``load_best_model_at_end``; ``average.restore()`` gives the last weights back.

    Args:
        trainer: whose model is averaged.
        inference: which mean.
        used: whether evaluations and the end use the mean; else it is only kept.

    Attributes:
        average: the mean; ``None`` before training.
    """

    def __init__(self, trainer: Trainer, inference: Inference, *, used: bool = True) -> None:
        self._trainer, self._inference, self._used = trainer, inference, used
        self.average: WeightAverage | None = None
        self._holding: Any = None  # the evaluation in the place of the trainer's
        self._held: Any = None  # one that the script had given this trainer

    def file(self, checkpoint: str | Path) -> Path:
        """Return where the mean is in a checkpoint."""
        return Path(checkpoint) / f"{PREFIX}{self._inference.weights}.safetensors"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Begin the mean, or go on with that of the checkpoint.

        Raises:
            ConfigError: if the checkpoint has none, or another one.
            AttachError: if the weights are sharded.
        """
        self.release()
        self.average = WeightAverage(self._trainer.model, self._inference, state.max_steps)
        if self._trainer.is_fsdp_enabled:
            raise AttachError(
                "FSDP shards the weights, so that no process could save their mean; train without"
                " it, or take inference='last'"
            )
        if state.global_step:
            self.average.load(self.file(_checkpoint()))
        write_with(self._trainer, self)
        if self._used:
            self._hold_evaluation()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count the step's weights."""
        assert self.average is not None
        self.average.update()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Write the mean into the checkpoint."""
        assert self.average is not None
        folder = checkpoint_now(self._trainer, state)
        if args.should_save and folder.is_dir():
            self.average.save(self.file(folder))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Leave the mean in the model."""
        self.release()
        if not self._used or self.average is None:
            return
        if args.load_best_model_at_end and state.best_model_checkpoint:
            self.average.load(self.file(state.best_model_checkpoint))
        if not self.average.count and log.is_first_process():
            log.logger.warning("no step that the mean counts was made: the last weights are used")
        self.average.apply()

    def release(self) -> None:
        """Give the trainer's evaluation back as it was. Does nothing twice."""
        own = vars(self._trainer)
        if self._holding is not None and own.get("evaluation_loop") is self._holding:
            del own["evaluation_loop"]
            if self._held is not None:
                self._trainer.evaluation_loop = self._held
        self._holding = self._held = None

    def _hold_evaluation(self) -> None:
        """Let evaluations of this one trainer, and no other, run with the mean."""
        evaluate = self._trainer.evaluation_loop
        self._held = vars(self._trainer).get("evaluation_loop")

        def with_the_mean(*given: Any, **named: Any) -> Any:
            assert self.average is not None
            if training_of(self._trainer) is None:
                self.release()  # an exception ended the training, and the last weights are saved
                return evaluate(*given, **named)
            with self.average.applied():
                return evaluate(*given, **named)

        self._trainer.evaluation_loop = self._holding = with_the_mean


def _checkpoint() -> Path:
    found = resumed_from()
    if found is None:
        raise AttachError(
            "training does not begin at its first step, and no checkpoint is known that has the"
            " mean so far; give train(resume_from_checkpoint=FOLDER)"
        )
    return found
