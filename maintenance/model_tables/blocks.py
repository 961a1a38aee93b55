"""What is done in its layer with the output of a feed-forward block, seen in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hiddenkey.anatomy import text_config
from hiddenkey.testing.passes import tensors_of

_Batch = Mapping[str, Tensor]
_Hook = tuple[Callable[[Any], Any], Any]


def norm_sides(model: nn.Module, names: Sequence[str], batch: _Batch) -> dict[str, str]:
    """Say for each module what the norms of its own layer do next with its output.

    The outputs of all modules are set to zero in one pass: a norm that takes nothing else is then
    given zeros, and one behind the residual add is not.

    Args:
        model: the model that names the modules; run once in evaluation mode.
        names: of modules within numbered layers.
        batch: the model's arguments.

    Returns:
        ``before NORM`` where a norm takes the output itself, as in Gemma 2 and OLMo 2; ``residual
        add, then NORM`` where it takes a sum, as in BERT; ``residual add`` where none follows.
    """
    found: dict[str, str] = {}
    waiting: dict[str, list[str]] = {layer_of(name): [] for name in names if layer_of(name)}

    def silence(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            waiting[layer_of(name)].append(name)
            if isinstance(output, tuple):
                return (torch.zeros_like(output[0]), *output[1:])
            return torch.zeros_like(output)

        return hook

    def look(layer: str, norm: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            side = f"residual add, then {norm}" if args and args[0].any() else f"before {norm}"
            for name in waiting[layer]:
                found.setdefault(name, side)
            waiting[layer].clear()

        return hook

    def forget(layer: str) -> Callable[..., None]:
        return lambda module, args: waiting[layer].clear()

    hooks: list[_Hook] = [
        (model.get_submodule(name).register_forward_hook, silence(name))
        for name in names
        if layer_of(name)
    ]
    for layer in waiting:
        module = model.get_submodule(layer)
        hooks.append((module.register_forward_pre_hook, forget(layer)))
        hooks += [
            (norm.register_forward_pre_hook, look(layer, name)) for name, norm in _norms(module)
        ]
    _run(model, batch, hooks)
    return {name: found.get(name, "residual add") for name in names}


def misfits(model: nn.Module, names: Sequence[str], batch: _Batch) -> list[str]:
    """Name the modules whose output has a width that no stream of their layer has.

    A router or a projection inside a block is found so, which every other check would let pass:
    noise acts there too, but at the wrong place. Streams are what the layer and its norms give, and
    have the configured width; there are several where a layer has a bottleneck or mixes streams.

    Args:
        model: the model that names the modules; run once in evaluation mode.
        names: of modules within numbered layers.
        batch: the model's arguments.
    """
    layers = {name: layer for name in names if (layer := layer_of(name))}
    own: dict[str, set[int]] = {name: set() for name in layers}
    configured = getattr(text_config(model), "hidden_size", 0)
    streams: dict[str, set[int]] = {layer: {configured} - {0} for layer in layers.values()}
    hooks: list[_Hook] = [
        (model.get_submodule(name).register_forward_hook, _note(own[name])) for name in own
    ]
    for layer, widths in streams.items():
        module = model.get_submodule(layer)
        for inner in (module, *(norm for _, norm in _norms(module))):
            hooks.append((inner.register_forward_hook, _note(widths)))
    _run(model, batch, hooks)
    return [
        f"{name} gives {', '.join(map(str, sorted(own[name])))} features, and its layer works on"
        f" {', '.join(map(str, sorted(streams[layer])))}"
        for name, layer in layers.items()
        if own[name] and not own[name] & streams[layer]
    ]


def layer_of(name: str) -> str:
    """Return the name of the innermost numbered module around a module."""
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts[:-1]) if part.isdigit()), default=-1)
    return ".".join(parts[: last + 1])


def _norms(layer: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """The norms in a layer, by the names of their classes."""
    for name, module in layer.named_modules():
        if "norm" in type(module).__name__.lower() and not list(module.children()):
            yield name, module


def _run(model: nn.Module, batch: _Batch, hooks: Iterable[_Hook]) -> None:
    """Run one evaluation pass with hooks, each with the method that registers it."""
    handles = [register(hook) for register, hook in hooks]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(**batch)
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)


def _note(widths: set[int]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        found = tensors_of(output).values()
        widths.update(tensor.shape[-1] for tensor in found if tensor.dim() > 1)

    return hook
