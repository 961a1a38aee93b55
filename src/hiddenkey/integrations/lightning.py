"""A callback for Lightning's Trainer that attaches a method for the length of a training."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from hiddenkey.attachment.attachment import Attachment
from hiddenkey.attachment.plan import Kernel
from hiddenkey.errors import AttachError
from hiddenkey.framework.config import DropoutConfig, with_own_schedule
from hiddenkey.framework.schedule import RateSchedule, by_position
from hiddenkey.integrations.configured import attach_and_say, configured
from hiddenkey.integrations.reached import ReachedSites
from hiddenkey.integrations.recognition import Recognition
from hiddenkey.step.added_loss import LanguageModelLoss
from hiddenkey.step.parallel import means_over_processes

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
_MODELS = {"PreTrainedModel", "PeftModel", "PeftMixedModel"}


def _base() -> Any:
    """Return Lightning's class of callbacks; it comes in two packages that do not know each other.

    The one that the script has imported counts, and both if it has both.
    """
    loaded = [name for name in _PACKAGES if name in sys.modules]
    installed = (name for name in _PACKAGES if find_spec(name.partition(".")[0]))
    chosen = loaded or [next(installed, _PACKAGES[0])]
    kinds = tuple(import_module(name).Callback for name in chosen)
    return kinds[0] if len(kinds) == 1 else type("Callback", kinds, {})


class HiddenKeyCallback(_base()):  # type: ignore[misc]
    """Attaches a method when ``fit`` begins, and detaches it at the end.

    ::

        lightning.Trainer(..., callbacks=[HiddenKeyCallback("hiddenkey", rate=0.1)])

    It puts the model into training mode, which ``from_pretrained`` leaves off and Lightning does
    not switch on. Every ``log_every_n_steps`` it logs ``task_loss``, ``consistency_loss``,
    ``dropped/<position>`` and with a schedule ``rate/<position>``. The consistency loss is
    in ``output.loss``, on which the training step must train. At the end the callback writes
    ``hiddenkey_config.json`` into the trainer's log folder. Of several callbacks, each names its
    model, and what they log and write has that name before it.

    Args:
        config: name of a method, or a configuration.
        rate: dropout rate of all drops of a named method; ``None`` keeps its own.
        rates: rates of a named method by position; they win over ``rate``.
        model: name of the module's attribute that is the model; ``None`` finds the one model of
            transformers or PEFT.
        schedules: factors of the rates by step.
        per_layer: log the observed drop rate of each layer, in place of their mean.
        keep_model_dropout: leave the model's own dropout on; ``None`` does what ``config`` says.
        kernel: see :func:`hiddenkey.attach`.
        lm_loss: see :func:`hiddenkey.attach`.

    Raises:
        ConfigError: if the method, a rate or the configuration is wrong. When ``fit`` begins, if
            it does not fit the model, or a schedule needs a number of steps that is not known.
        AttachError: when ``fit`` begins, if the model is not found or has an attachment already.

    Attributes:
        config: the configuration.
        attachment: what is at work; ``None`` outside of ``fit``.
    """

    def __init__(
        self,
        config: str | DropoutConfig = "hiddenkey",
        rate: float | None = None,
        *,
        rates: Mapping[str, float] | None = None,
        model: str | None = None,
        schedules: Sequence[RateSchedule] = (),
        per_layer: bool = False,
        keep_model_dropout: bool | None = None,
        kernel: Kernel = "auto",
        lm_loss: LanguageModelLoss = "auto",
    ) -> None:
        super().__init__()
        self.config = configured(config, rate, rates, keep_model_dropout)
        self.attachment: Attachment | None = None
        self._name, self._schedules = model, with_own_schedule(self.config, schedules)
        self._per_layer = per_layer
        self._kernel, self._lm_loss = kernel, lm_loss
        self._passes = 0
        self._predictions: dict[str, Any] = {}
        self._is_restored = False
        self._logged = 0  # how many times `log_every_n_steps` had passed
        self._recognition: Recognition | None = None
        self.reached: ReachedSites | None = None

    @property
    def state_key(self) -> str:
        """Name of this callback's state in a checkpoint; callbacks for several models have own."""
        key: str = super().state_key
        return key if self._name is None else f"{key}[{self._name}]"

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach to the module's model, and put it into training mode."""
        self.detach()
        model = find_model(pl_module, self._name)
        self.attachment = attach_and_say(model, self.config, self._kernel, self._lm_loss)
        model.train()
        if not self._is_restored:  # what another fit left is of another model, for all we know
            self._passes, self._predictions = 0, {}
        self._is_restored = False
        self.attachment.consistency_passes = self._passes
        if self.attachment.history is not None:
            self.attachment.history.load_state_dict(self._predictions)
        self.reached = ReachedSites(self.attachment)
        for schedule in self._schedules:
            schedule.rates(self.attachment.sites, 0, 1)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse a schedule over a number of steps that Lightning does not know."""
        assert self.attachment is not None
        if (history := self.attachment.history) is not None:
            source = "the checkpoint" if len(history) else None
            self._recognition = Recognition(history, source, trainer.current_epoch)
        for schedule in self._schedules:
            schedule.rates(self.attachment.sites, 0, _steps(trainer, pl_module))
        self._logged = _steps_done(trainer, pl_module) // max(1, trainer.log_every_n_steps)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Set the step's rates."""
        assert self.attachment is not None
        rates: dict[str, float] = {}
        # Lightning has counted this batch as begun
        step = _steps_done(trainer, pl_module, begun=1)
        for schedule in self._schedules:
            rates |= schedule.rates(self.attachment.sites, step, _steps(trainer, pl_module))
        self.attachment.set_rates(rates)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Let processes exchange the predictions that a temporal loss compares with.

        Raises:
            ConsistencyError: if a resumed fit knew none of its examples.
        """
        if self._recognition is not None:
            self._recognition.end_epoch()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Log where a step's metrics are due."""
        due = _steps_done(trainer, pl_module) // max(1, trainer.log_every_n_steps)
        if due != self._logged:
            self._logged = due
            before = self._own_name(trainer)
            parts = self.read(pl_module)
            pl_module.log_dict({f"{before}{name}": value for name, value in parts.items()})

    def read(self, pl_module: Any) -> dict[str, float]:
        """Return the last loss's parts, the rates, and the observed drop rates since last time.

        On several processes all must call this.
        """
        assert self.attachment is not None
        assert self.reached is not None
        losses = means_over_processes(self.attachment.losses, pl_module.device)
        parts = {f"{name}_loss": value for name, value in losses.items()}
        observed = self.reached.read(pl_module.device, per_layer=self._per_layer)
        parts |= {f"dropped/{key}": share for key, share in observed.items()}
        if self._schedules:
            rates = by_position(self.attachment.rates, self.attachment.sites)
            parts |= {f"rate/{position}": rate for position, rate in rates.items()}
        return parts

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Detach, and write the configuration into the trainer's folder.

        When ``fit`` ends, Lightning has taken the model off its device already.
        """
        if self.attachment is None or self.reached is None:
            return
        self.reached.read(pl_module.device)
        if trainer.global_step:
            self.reached.report()
            if self._recognition is not None:
                self._recognition.report()
        self._keep_state()
        self.detach()
        folder = trainer.log_dir or trainer.default_root_dir  # all processes must ask for it
        if trainer.is_global_zero and not trainer.fast_dev_run:  # which leaves nothing behind
            self.config.save_pretrained(Path(folder) / self._own_name(trainer))

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Detach, where nothing was trained."""
        self.detach()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Detach; a checkpoint that Lightning writes next holds the state of now."""
        self._keep_state()
        self.detach()
        self._is_restored = False

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Forget what a checkpoint gave that was loaded for a test: no fit goes on from it."""
        self._is_restored = False

    def state_dict(self) -> dict[str, Any]:
        """Return the number of passes and the kept predictions, for a checkpoint.

        Lightning writes those of the first process; each has all after an epoch.
        """
        passes = self.attachment.consistency_passes if self.attachment else self._passes
        history = self.attachment.history if self.attachment else None
        kept = self._predictions if history is None else history.state_dict()
        return {"passes": passes, "predictions": kept} if kept else {"passes": passes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next fit go on where a resumed run stood."""
        self._is_restored = True
        self._passes = state_dict["passes"]
        self._predictions = state_dict.get("predictions", {})

    def _keep_state(self) -> None:
        """Keep what a checkpoint holds, as it is while attached."""
        if self.attachment is None:
            return
        self._passes = self.attachment.consistency_passes
        if self.attachment.history is not None:
            self._predictions = self.attachment.history.state_dict()

    def _own_name(self, trainer: Any) -> str:
        """What stands before names of this callback's logs, where the trainer has several."""
        several = sum(isinstance(each, HiddenKeyCallback) for each in trainer.callbacks) > 1
        return f"{self._name}/" if several and self._name else ""

    def detach(self) -> None:
        """Give the model back as it was. Does nothing twice."""
        if self.attachment is not None:
            self.attachment.detach()
        self.attachment = self.reached = self._recognition = None


def _steps_done(trainer: Any, pl_module: Any, *, begun: int = 0) -> int:
    """The steps of a fit so far.

    Under manual optimisation these are batches: Lightning counts each call of an optimiser, of
    which a batch may have several or none.

    Args:
        trainer: Lightning's.
        pl_module: the module that it trains.
        begun: batches that have begun and are not counted.
    """
    if pl_module.automatic_optimization:
        return int(trainer.global_step)
    return int(trainer.fit_loop.total_batch_idx) + 1 - begun


def _steps(trainer: Any, pl_module: Any) -> int:
    """All steps of a fit, as :func:`_steps_done` counts; −1: there is no end to them, or unknown.

    Under manual optimisation ``max_steps`` are calls of optimisers; those so far tell how many a
    batch has.
    """
    if pl_module.automatic_optimization:
        steps = trainer.estimated_stepping_batches
        return int(steps) if math.isfinite(steps) else -1
    epochs = math.inf if trainer.max_epochs in (None, -1) else max(trainer.max_epochs, 1)
    steps = trainer.num_training_batches * epochs
    if trainer.max_steps != -1:
        done = _steps_done(trainer, pl_module, begun=1)
        batches_a_call = done / trainer.global_step if done and trainer.global_step else 1
        steps = min(steps, trainer.max_steps * batches_a_call)
    return round(steps) if math.isfinite(steps) else -1


def find_model(pl_module: nn.Module, name: str | None = None) -> nn.Module:
    """Return the model in a LightningModule that is trained.

    Args:
        pl_module: the LightningModule.
        name: of its attribute; ``None`` finds the one model of transformers or PEFT with trainable
            weights, or else the one child that has some.

    Raises:
        AttachError: if there is none, or more than one.
    """
    if name is not None:
        try:
            return pl_module.get_submodule(name)
        except AttributeError:
            children = ", ".join(child for child, _ in pl_module.named_children())
            raise AttachError(
                f"model must name a module in {type(pl_module).__name__}, got {name!r}; it has"
                f" {children}"
            ) from None
    found = list(_outermost(pl_module)) or list(pl_module.named_children())
    trained = [each for each in found if any(p.requires_grad for p in each[1].parameters())]
    if len(trained) != 1:
        names = ", ".join(name for name, _ in trained) or "none"
        raise AttachError(
            f"{type(pl_module).__name__} must have one model with trainable weights, got {names};"
            ' say which: HiddenKeyCallback(..., model="NAME")'
        )
    model: nn.Module = trained[0][1]
    return model


def _outermost(module: nn.Module, prefix: str = "") -> Any:
    """Yield the name and module of each model that is in no other model."""
    for name, child in module.named_children():
        if _MODELS & {kind.__name__ for kind in type(child).__mro__}:
            yield f"{prefix}{name}", child
        else:
            yield from _outermost(child, f"{prefix}{name}.")
