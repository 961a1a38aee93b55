"""Checks that a model from which the attachment was taken off is what it was."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules import module as module_hooks

from hiddenkey.testing.examination import Examination
from hiddenkey.testing.findings import fail_if
from hiddenkey.testing.passes import differences


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
