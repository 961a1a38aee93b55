"""Checks that the model stays what it is: in evaluation, without drops, and once it is detached.

Nor may activation checkpointing change it: a layer that is run again must draw the same masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.utils.checkpoint import checkpoint

from hiddenkey.attachment import model_dropout
from hiddenkey.testing.examination import VANISHING_RATE, Examination
from hiddenkey.testing.findings import CheckError, fail_if
from hiddenkey.testing.passes import Pass, differences, without_dropout_modules

_SWITCHES = ("gradient_checkpointing", "_gradient_checkpointing_func")


def check_evaluation(examination: Examination) -> str:
    """Evaluation is bit-equal with and without the attachment, and draws as many numbers."""
    plain = examination.evaluations()
    with examination.attached():
        state = torch.get_rng_state()
        found = examination.evaluations()
        if not torch.equal(state, torch.get_rng_state()):
            raise CheckError("evaluation moves PyTorch's random generator")
    faults = [
        f"{name}: {', '.join(differ)} differ from evaluation without the attachment"
        for name in plain
        if (differ := differences(plain[name], found[name]))
    ]
    fail_if(faults)
    return f"bit-equal in {len(plain)} batches"


def check_own_dropout(examination: Examination) -> str:
    """The model draws no random numbers of its own, so that all noise is the configured one.

    A router that draws to choose its experts is left alone, and named.
    """
    without_drops = examination.at_rate(0.0, drops=())
    with without_dropout_modules(examination.model), examination.attached(without_drops):
        seen = examination.spy()
    drawn = {(operation.module or "the model", operation.name) for operation in seen.random}
    fail_if([f"{module} still draws ({name})" for module, name in sorted(drawn)])
    routers = dict.fromkeys(operation.module for operation in seen.routing)
    return f"none but the routing of {', '.join(routers)}" if routers else "none"


def check_rate_zero(examination: Examination) -> str:
    """Where nothing is dropped, loss and gradients are those of the model without dropout.

    At a rate of exactly zero, and at one so small that no unit is dropped, where the library's own
    paths run. The model without dropout is its evaluation mode, or, for a model that does other
    things in training, its training mode with all dropout rates set to zero. Where a router draws,
    masks would move its draws, and the rate of exactly zero alone is looked at.
    """
    with without_dropout_modules(examination.model):
        plain = examination.runner.train(examination.batch, training=False)
        found = {}
        for rate in (0.0,) if examination.spy().routing else (0.0, VANISHING_RATE):
            with examination.attached(examination.at_rate(rate)):
                found[rate] = examination.runner.train(examination.batch)
        reference = "evaluation"
        if max(one.apart(plain) for one in found.values()) > examination.tolerance:
            reference = "training without dropout"
            plain = _train_without_dropout(examination)
    apart = {rate: one.apart(plain) for rate, one in found.items()}
    worst = max(apart, key=lambda rate: apart[rate])
    if apart[worst] > examination.tolerance:
        raise CheckError(
            f"at rate {worst:g} loss or gradients are {apart[worst]:.1e} away from {reference}"
            f" (relative; {examination.tolerance:g} is allowed)"
        )
    return f"at most {apart[worst]:.1e} away from {reference}"


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


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Record attributes, types, forward methods, flags, hooks, numbers and configs of all modules.

    Two snapshots are equal where nothing of it changed; their values are of plain types, so that a
    test shows what did.
    """
    found: dict[str, Any] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found[f"{name}: attributes"] = sorted(module.__dict__)
        found[f"{name}: type"] = type(module)
        found[f"{name}: forward"] = getattr(module.forward, "__func__", module.forward)
        found[f"{name}: training"] = module.training
        own = module.__dict__.items()
        found[f"{name}: hooks"] = {
            key: len(value) for key, value in own if "hooks" in key and isinstance(value, dict)
        }
        found[f"{name}: numbers"] = {k: value for k, value in own if isinstance(value, float | int)}
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "_attn_implementation"):
            found[f"{name}: attention"] = config._attn_implementation
            found[f"{name}: config"] = dict(sorted(config.__dict__.items()))
    return found


def check_detach(examination: Examination) -> str:
    """Hooks, attributes, configs, flags, weights and outputs come back after a training pass."""
    runner = examination.runner
    runner.train(examination.batch)  # a first call with labels settles some of a model's config
    expected = examination.evaluations()
    runner.model.train()
    before, weights = snapshot(runner.model), dict(runner.model.state_dict())
    weights = {name: value.clone() for name, value in weights.items()}
    hooks = _global_hooks()
    with examination.attached():
        runner.train(examination.batch)
    changed = snapshot(runner.model)
    faults = [
        f"{entry}: {_change(before.get(entry), changed.get(entry))}"
        for entry in sorted(before.keys() | changed.keys())
        if before.get(entry) != changed.get(entry)
    ]
    state = dict(runner.model.state_dict())
    faults += [f"weights {name} changed" for name in differences(weights, state)]
    if _global_hooks() != hooks:
        faults.append("hooks on all modules of the process were left behind")
    found = examination.evaluations()
    faults += [
        f"outputs of {name} changed" for name in found if differences(expected[name], found[name])
    ]
    fail_if(faults)
    return f"{len(before)} entries, {len(weights)} tensors and all outputs as they were"


def _train_without_dropout(examination: Examination) -> Pass:
    settings = model_dropout.switch_off(examination.transformer)
    try:
        return examination.runner.train(examination.batch)
    finally:
        model_dropout.restore(settings)


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


def _global_hooks() -> int:
    return sum(
        len(hooks)
        for name, hooks in vars(module_hooks).items()
        if name.startswith("_global_") and name.endswith("hooks")
    )


def _change(before: object, after: object) -> str:
    """Say what changed in one entry of a snapshot."""
    if isinstance(before, list) and isinstance(after, list):
        before, after = set(before) - set(after), set(after) - set(before)
        return f"lost {sorted(before) or 'nothing'}, gained {sorted(after) or 'nothing'}"
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [k for k in before.keys() | after.keys() if before.get(k) != after.get(k)]
        return ", ".join(f"{k} was {before.get(k)}, is {after.get(k)}" for k in sorted(keys))
    return f"was {before}, is {after}"
