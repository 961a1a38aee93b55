"""Passes that count nowhere: what a step costs is measured without a trace in the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from hiddenkey.measure import ShareCounter
from hiddenkey.step.history import History
from hiddenkey.step.temporal import TemporalLoss

if TYPE_CHECKING:
    from hiddenkey.step.hooks import StepHooks


@contextmanager
def aside(step: StepHooks, counters: Mapping[str, ShareCounter]) -> Iterator[None]:
    """Let passes run that leave no trace, apart from gradients, which the caller asks for.

    Losses, drop rates, the number of passes, earlier predictions, random numbers and buffers are
    afterwards what they were.

    Args:
        step: the hooks of the model.
        counters: of its sites.
    """
    loss = step.consistency
    passes = 0 if loss is None else loss.passes
    meter, trained = vars(step.meter).copy(), step.trained
    counted = {name: vars(counter).copy() for name, counter in counters.items()}
    with ExitStack() as kept:
        kept.enter_context(_random_numbers(step.entry))
        kept.enter_context(_buffers(step.entry))
        if isinstance(loss, TemporalLoss):
            kept.enter_context(_other_history(loss))
        step.meter.clear()
        step.trained = None
        try:
            yield
        finally:
            vars(step.meter).update(meter)
            step.trained = trained
            for name, counter in counters.items():
                vars(counter).update(counted[name])
            if loss is not None:
                loss.passes = passes


@contextmanager
def _random_numbers(model: nn.Module) -> Iterator[None]:
    """Put PyTorch's generators back: the host's, and those of the devices with weights."""
    devices = {parameter.device for parameter in model.parameters()}
    used = [device for device in devices if device.type not in ("cpu", "meta")]
    kind = used[0].type if used else "cuda"
    with torch.random.fork_rng([device.index for device in used], device_type=kind):
        yield


@contextmanager
def _buffers(model: nn.Module) -> Iterator[None]:
    """Put buffers back that a pass moves, such as running statistics."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, values in before:
                if not torch.equal(buffer, values):
                    buffer.copy_(values)


@contextmanager
def _other_history(loss: TemporalLoss) -> Iterator[None]:
    """Compare with predictions of the block's own passes, and forget them afterwards."""
    before, loss.history = loss.history, History(loss.history.adapters)
    try:
        yield
    finally:
        loss.history = before
