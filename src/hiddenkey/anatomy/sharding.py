"""Which modules have weights that are sharded over processes."""

from __future__ import annotations

from typing import Any

from torch import nn


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP2 or DeepSpeed ZeRO-3 gathers a module's weights before each of its calls."""
    return is_fsdp(module) or hasattr(next(module.parameters(), None), "ds_id")


def is_of_fsdp(hook: Any) -> bool:
    """Whether a module's hook is one of FSDP2's, which gather weights and compute nothing."""
    return getattr(hook, "__module__", "").startswith("torch.distributed.fsdp.")


def is_fsdp(module: nn.Module) -> bool:
    """Whether FSDP2 shards a module's weights."""
    return hasattr(module, "set_requires_gradient_sync") and hasattr(module, "unshard")
