"""A module of a transformer and its place, and ways to walk through the modules below it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import nn


@dataclass(frozen=True)
class Part:
    """A module of a transformer.

    Attributes:
        layer: index of the transformer layer that holds it, counted through all stacks; ``None``
            outside the layers.
        name: its name in the transformer (without PEFT's prefix).
        module: the module itself.
        is_bare: a layer that has no module around all of it; ``module`` is its attention.
        beside: the further modules of a bare layer, with their names.
        is_named: a module of a network without attention that the user named as a place of noise.
    """

    layer: int | None
    name: str
    module: nn.Module
    is_bare: bool = field(default=False, kw_only=True)
    beside: tuple[tuple[str, nn.Module], ...] = field(default=(), kw_only=True)
    is_named: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class Gap:
    """A layer in which a position does not exist, such as the attention of a Mamba layer.

    Attributes:
        layer: index of the layer; ``None`` for a module outside the layers, which is left alone.
        name: the layer's name, or the module's.
        position: what is not there.
        reason: what is there instead.
    """

    layer: int | None
    name: str
    position: str
    reason: str


def walk(part: Part) -> Iterator[Part]:
    """Walk the modules below a part, without going into an adapter's own layers."""
    if part.is_bare:
        yield Part(part.layer, part.name, part.module)
    yield from _below(part)
    for name, module in part.beside:
        yield Part(part.layer, name, module)
        yield from _below(Part(part.layer, name, module))


def _below(part: Part) -> Iterator[Part]:
    adapters: list[str] = []
    for name, module in part.module.named_modules():
        if name and not name.startswith(tuple(adapters)):
            yield Part(part.layer, f"{part.name}.{name}" if part.name else name, module)
        if hasattr(module, "base_layer"):
            adapters.append(f"{name}." if name else "")


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return (inputs, outputs) of a linear layer, GPT-2's Conv1D or an adapter around one.

    A convolution over single tokens is a linear layer too.
    """
    if isinstance(module, nn.Bilinear):
        return None
    if isinstance(module, nn.Conv1d) and module.kernel_size == (1,):
        return module.in_channels, module.out_channels
    inputs, outputs = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if inputs is None:
        inputs, outputs = getattr(module, "nx", None), getattr(module, "nf", None)
    if isinstance(inputs, int) and isinstance(outputs, int):
        return inputs, outputs
    return None


def holds_linears(module: nn.Module) -> bool:
    """Whether there is a linear layer in a module."""
    return any(linear_shape(child) for child in module.modules())


def innermost(part: Part) -> Part:
    """Return the module that an adapter wraps, or the part itself."""
    name, module = part.name, part.module
    while isinstance(inside := getattr(module, "base_layer", None), nn.Module):
        name, module = f"{name}.base_layer", inside
    return part if module is part.module else replace(part, name=name, module=module)


def is_inside(name: str, containers: tuple[str, ...]) -> bool:
    """Whether a module's name is one of ``containers``, or lies below one."""
    return any(name == container or name.startswith(f"{container}.") for container in containers)
