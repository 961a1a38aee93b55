"""What a training pass costs with an attachment at work, beside the same pass without."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

import torch
from torch import Tensor

from hiddenkey.errors import AttachError, ConfigError
from hiddenkey.measure import ShareCounter
from hiddenkey.step.aside import aside
from hiddenkey.step.hooks import StepHooks

_WARM_UP: Final = 2
"""Pairs that are not counted: the first pass of a kind allocates, compiles and looks up."""

ROUNDS: Final = 5


@dataclass(frozen=True)
class StepCost:
    """Seconds of forward and backward passes that took turns.

    The optimiser and the reading of data are not in them. A loss between passes that runs in every
    n-th step is in them as the mean over n steps.

    Attributes:
        seconds: of a training pass with the method, one for each pair.
        plain_seconds: of the same without the method's noise and loss.
    """

    seconds: tuple[float, ...]
    plain_seconds: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Of each pair."""
        pairs = zip(self.seconds, self.plain_seconds, strict=True)
        return tuple(ours / plain for ours, plain in pairs)

    @property
    def ratio(self) -> float:
        """The median pair's: how many times as long a pass takes with the method."""
        return median(self.ratios)

    def __str__(self) -> str:
        low, high = min(self.ratios), max(self.ratios)
        return (
            f"forward and backward pass take {self.ratio:.2f} times as long as without the method's"
            f" noise and loss ({low:.2f} to {high:.2f} in {len(self.ratios)} pairs)"
        )


def measure(
    step: StepHooks,
    counters: Mapping[str, ShareCounter],
    loss: Callable[[], Tensor],
    rounds: int = ROUNDS,
) -> StepCost:
    """Let passes with the method and without take turns; who begins changes from pair to pair.

    Args:
        step: the hooks of the model.
        counters: of its sites.
        loss: calls the model on one batch and returns its loss, a scalar.
        rounds: pairs that count.

    Raises:
        AttachError: if the model is not in training mode, nothing in it is trained, or no loss
            comes back.
        ConfigError: if there is no pair to count, or ``loss`` cannot be called.
    """
    if not isinstance(rounds, int) or rounds < 1:
        raise ConfigError(f"rounds must be a whole number of at least 1, got {rounds!r}; try 5")
    if not callable(loss):
        raise ConfigError(
            f"loss must be a function without arguments, got {type(loss).__name__}; for example"
            " lambda: model(**batch).loss"
        )
    if not step.entry.training:
        raise AttachError("a step is measured in training mode; call model.train() before")
    trained = [parameter for parameter in step.entry.parameters() if parameter.requires_grad]
    if not trained:
        raise AttachError("no weight of the model is trained, so there is no step to measure")
    count = 1 if step.consistency is None else step.consistency.consistency.every

    def take(*, paused: bool) -> float:
        step.is_paused = paused
        _synchronise(trained[0].device)
        started = time.perf_counter()
        for _ in range(count):
            found = loss()
            _refuse(found)
            # unlike backward() this leaves .grad alone, and all that waits for gradients there
            torch.autograd.grad(found, trained, allow_unused=True)
        _synchronise(trained[0].device)
        return (time.perf_counter() - started) / count

    with aside(step, counters):
        try:
            pairs = [_pair(take, number) for number in range(_WARM_UP + rounds)]
        finally:
            step.is_paused = False
    ours, plain = zip(*pairs[_WARM_UP:], strict=True)
    return StepCost(ours, plain)


def _pair(take: Callable[..., float], number: int) -> tuple[float, float]:
    if number % 2:
        plain = take(paused=True)
        return take(paused=False), plain
    ours = take(paused=False)
    return ours, take(paused=True)


def _refuse(loss: object) -> None:
    """Refuse what gives no gradient."""
    if isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad:
        return
    shown = type(loss).__name__
    if isinstance(loss, Tensor):
        shown = f"a tensor {list(loss.shape)}" + " without gradient" * (not loss.requires_grad)
    raise AttachError(
        f"loss must return the loss of a training pass, a scalar with gradient, got {shown}; for"
        " example lambda: model(**batch).loss, with labels in the batch"
    )


def _synchronise(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
