"""The check of activation checkpointing: a layer that is run again must draw the same masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from hiddenkey.testing.examination import Examination
from hiddenkey.testing.findings import CheckError
from hiddenkey.testing.passes import without_dropout_modules

_SWITCHES = ("gradient_checkpointing", "_gradient_checkpointing_func")


def check_checkpointing(examination: Examination) -> str:
    """With activation checkpointing, the same seed gives the same loss and gradients."""
    transformer: Any = examination.transformer
    switchable = _switchable(transformer)
    if not (switchable and getattr(transformer, "supports_gradient_checkpointing", False)):
        return "the model does not support it"
    if any(getattr(module, _SWITCHES[0]) for module in switchable):
        return "the model has it on already, so all checks ran with it"
    reason = _own_trouble(examination)
    if reason is not None:
        return f"not checked, since the model's own checkpointing {reason}"
    apart = 0.0
    for seed in range(2):
        with examination.attached():
            plain = examination.runner.train(examination.batch, seed)
        with _checkpointed(transformer), examination.attached():
            found = examination.runner.train(examination.batch, seed)
        apart = max(apart, found.apart(plain))
    if apart > examination.tolerance:
        raise CheckError(
            f"loss or gradients are {apart:.1e} away from those without checkpointing (relative)"
        )
    return f"at most {apart:.1e} away from a pass without it"


def _own_trouble(examination: Examination) -> str | None:
    """Say what is wrong with a model's checkpointing where nothing is attached."""
    with without_dropout_modules(examination.model):
        plain = examination.runner.train(examination.batch)
        try:
            with _checkpointed(examination.transformer):
                found = examination.runner.train(examination.batch)
        except Exception as error:
            return f"raises {type(error).__name__}"
    apart = found.apart(plain)
    return f"is {apart:.1e} off" if apart > examination.tolerance else None


@contextmanager
def _checkpointed(transformer: nn.Module) -> Iterator[None]:
    """Turn activation checkpointing on as transformers does, and leave no trace of it."""
    before = [
        (module, {name: module.__dict__[name] for name in _SWITCHES if name in module.__dict__})
        for module in _switchable(transformer)
    ]
    recompute = partial(checkpoint, use_reentrant=False)
    try:
        for module, _ in before:
            module.__dict__.update(dict(zip(_SWITCHES, (True, recompute), strict=True)))
        yield
    finally:
        for module, switches in before:
            for name in _SWITCHES:
                module.__dict__.pop(name, None)
            module.__dict__.update(switches)


def _switchable(transformer: nn.Module) -> list[nn.Module]:
    return [module for module in transformer.modules() if hasattr(module, _SWITCHES[0])]
