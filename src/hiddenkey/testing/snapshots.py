"""A snapshot of everything about a model that attaching could change, apart from its tensors."""

from __future__ import annotations

from typing import Any

from torch import nn

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
)


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
        found[f"{name}: hooks"] = {hooks: len(getattr(module, hooks)) for hooks in _HOOKS}
        found[f"{name}: numbers"] = {
            key: value for key, value in module.__dict__.items() if isinstance(value, float | int)
        }
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "_attn_implementation"):
            found[f"{name}: attention"] = config._attn_implementation
            found[f"{name}: config"] = dict(sorted(config.__dict__.items()))
    return found
