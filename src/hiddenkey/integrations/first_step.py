"""Measures, at the first step of a Trainer, what its steps cost with a method and without."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from torch import Tensor, nn
from transformers import Trainer

from hiddenkey.attachment.attachment import Attachment
from hiddenkey.attachment.step_cost import StepCost
from hiddenkey.errors import AttachError
from hiddenkey.log import is_first_process, logger

_TRLS_METRICS: Final = ("_metrics", "_stored_metrics")
"""Where TRL's trainers collect what they log, in each computation of a loss."""


class FirstStep:
    """Passes with the method and without take turns on the first batch of a training.

    Args:
        trainer: whose loss it is.
        attachment: on its model.
        follows_schedule: the rates of the first step are not the configured ones.
    """

    def __init__(
        self, trainer: Trainer, attachment: Attachment, *, follows_schedule: bool = False
    ) -> None:
        self._trainer, self._attachment = trainer, attachment
        self._follows_schedule = follows_schedule
        self._is_done = False
        self._cost: StepCost | None = None

    def measure(self, model: nn.Module, loss: Callable[[], Tensor]) -> None:
        """Measure once, and log what came out; a training goes on where it cannot be measured.

        Args:
            model: as the trainer calls it.
            loss: computes the trainer's loss of the batch.
        """
        if self._is_done or not model.training:
            return
        self._is_done = True
        try:
            self._cost = self._measure(model, loss)
            words = str(self._cost)
        except RuntimeError as error:
            reason = str(error).strip() or type(error).__name__
            words = f"what a step costs was not measured: {reason.splitlines()[0]}"
        if is_first_process():
            logger.info(words)

    def read(self) -> StepCost | None:
        """Return what was measured, once; ``None`` before, and where it could not be."""
        cost, self._cost = self._cost, None
        return cost

    def _measure(self, model: nn.Module, loss: Callable[[], Tensor]) -> StepCost:
        trainer = self._trainer
        if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
            raise AttachError("weights are sharded, and each pass would have to collect them")
        with trainer.accelerator.no_sync(model), _unchanged(trainer), self._configured_rates():
            return self._attachment.step_cost(loss)

    @contextmanager
    def _configured_rates(self) -> Iterator[None]:
        """Draw at the configured rates: a schedule may begin at 0, where nothing is drawn."""
        before = self._attachment.rates
        if self._follows_schedule:
            self._attachment.set_rates({s.key: s.rate for s in self._attachment.sites})
        try:
            yield
        finally:
            self._attachment.set_rates(before)


@contextmanager
def _unchanged(trainer: Trainer) -> Iterator[None]:
    """Put back what a trainer counts and collects while it computes a loss."""
    numbers = {name: own for name, own in vars(trainer).items() if isinstance(own, int | float)}
    own = {name: vars(trainer)[name] for name in _TRLS_METRICS if name in vars(trainer)}
    before = {**numbers, **copy.deepcopy(own)}
    try:
        yield
    finally:
        vars(trainer).update(before)
