"""Finds the two matrices of an adapter that adds B·A·x to a layer's output, as LoRA does."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

Pair = tuple[nn.Module, nn.Module]
"""The modules of A, inputs to ranks, and of B, ranks to outputs."""

_MOVED = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations of PEFT that take the adapter's first update out of the frozen weights."""

_CONTAINERS = (nn.ModuleDict, nn.ModuleList, nn.ParameterDict, nn.ParameterList)


def low_rank_pairs(module: nn.Module) -> dict[str, Pair]:
    """Return the matrices of a module's adapters, by the adapter's name.

    They are its children ``lora_A`` and ``lora_B``: modules, or as in PEFT one for each adapter.
    Empty where there are none, or where they are parameters that no module of their own applies.
    """
    children: Any = dict(module.named_children())
    downs, ups = children.get("lora_A"), children.get("lora_B")
    if isinstance(downs, nn.ModuleDict) and isinstance(ups, nn.ModuleDict):
        return {name: (downs[name], ups[name]) for name in downs if name in ups}
    if downs is None or ups is None or isinstance(downs, _CONTAINERS):
        return {}
    return {"": (downs, ups)}


def is_adapted(module: nn.Module) -> bool:
    """Whether a module is an adapter around a layer, of any kind, or has matrices of its own."""
    return isinstance(getattr(module, "base_layer", None), nn.Module) or bool(
        low_rank_pairs(module)
    )


def active_pairs(module: nn.Module) -> dict[str, Pair]:
    """Return those of :func:`low_rank_pairs` that act now; none while adapters are disabled."""
    pairs = low_rank_pairs(module)
    if getattr(module, "disable_adapters", False):
        return {}
    active = getattr(module, "active_adapters", None)
    return pairs if active is None else {name: pairs[name] for name in active if name in pairs}


def is_merged(module: nn.Module) -> bool:
    """Whether an adapter's update is in the frozen weight at this moment."""
    return bool(getattr(module, "merged", False))


def moved_start(model: nn.Module) -> str | None:
    """Return an initialisation by which a model's adapter holds part of the frozen weights."""
    configs: Any = getattr(model, "peft_config", {})
    starts = [str(getattr(each, "init_lora_weights", "")).lower() for each in configs.values()]
    return next((start for start in starts if start.startswith(_MOVED)), None)


def update_refusal(module: nn.Module) -> str | None:
    """Say why noise cannot be put on the update of an adapted module; ``None`` if it can."""
    base = getattr(module, "base_layer", None)
    if isinstance(base, nn.MultiheadAttention) or hasattr(module, "parameter_name"):
        return "adds its update to the weight itself"
    if isinstance(base, nn.Embedding):
        return "looks its update up, without a module for each of its matrices"
    if not set(getattr(module, "lora_arrow", ())).isdisjoint(
        getattr(module, "active_adapters", ())
    ):
        return "chooses among adapters for each token (Arrow), by their matrices side by side"
    pairs = low_rank_pairs(module)
    if any(isinstance(down, _ConvNd) for down, _ in pairs.values()):
        return "convolves its update, which is no sequence of vectors"
    if not pairs:
        return f"is an adapter ({_origin(module)}) without modules lora_A and lora_B"
    return None


def _origin(module: nn.Module) -> str:
    """Name an adapter by the package of its class: ``ia3``, ``adalora``."""
    words = type(module).__module__.split(".")
    return words[-2] if words[0] == "peft" and len(words) > 1 else type(module).__name__
