"""A module of a transformer and its place, and ways to walk through the modules below it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

_COPY = r"\.(?:original_module|modules_to_save\.[^.]+)(?=\.|$)"
_WRAPPED = re.compile(rf"{_COPY}|\.base_layer(?=\.|$)")


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
    """Walk the modules below a part, without going into an adapter's own layers.

    Of what PEFT holds in several copies (``modules_to_save``), the copy in use stands for all.
    """
    if part.is_bare:
        yield Part(part.layer, part.name, part.module)
    seen = {part.module}
    yield from _below(part, seen)
    for name, module in part.beside:
        beside = in_use(Part(part.layer, name, module))
        yield beside
        yield from _below(beside, {beside.module})


def _below(part: Part, seen: set[nn.Module]) -> Iterator[Part]:
    """Walk the modules below a part that were not seen before, as ``named_modules`` does."""
    if hasattr(part.module, "base_layer") or hasattr(part.module, "original_module"):
        return  # an adapter, or PEFT's TrainableTokensWrapper around one
    for own, child in part.module.named_children():
        name = f"{part.name}.{own}" if part.name else own
        below = in_use(Part(part.layer, name, child))
        if below.module not in seen:
            seen.add(below.module)
            yield below
            yield from _below(below, seen)


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return (inputs, outputs) of a linear layer, GPT-2's Conv1D or an adapter around one.

    A convolution over single tokens is a linear layer too. Older code's Conv1D knows ``nf`` alone.
    """
    if isinstance(module, nn.Bilinear):
        return None
    if isinstance(module, nn.Conv1d) and module.kernel_size == (1,):
        return module.in_channels, module.out_channels
    inputs, outputs = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if inputs is None:
        inputs, outputs = getattr(module, "nx", None), getattr(module, "nf", None)
        weight = getattr(module, "weight", None)
        if inputs is None and isinstance(weight, Tensor) and weight.dim() == 2:
            inputs = weight.shape[0]
    if isinstance(inputs, int) and isinstance(outputs, int):
        return inputs, outputs
    return None


def holds_linears(module: nn.Module) -> bool:
    """Whether there is a linear layer in a module."""
    return any(linear_shape(child) for child in module.modules())


def innermost(part: Part) -> Part:
    """Return the module that adapters wrap, or the part itself."""
    part = in_use(part)
    inside = getattr(part.module, "base_layer", None)
    if not isinstance(inside, nn.Module):
        return part
    return innermost(replace(part, name=f"{part.name}.base_layer", module=inside))


def saved_copies(module: nn.Module) -> dict[str, nn.Module]:
    """Return the copies that PEFT holds of a module in ``modules_to_save``, the one in use first.

    By their names in ``module``, which stands for all of them; empty for any other module.
    """
    wrapper: Any = module
    saved = getattr(module, "modules_to_save", None)
    if not isinstance(saved, nn.ModuleDict):
        return {}
    copies: dict[str, nn.Module] = {"original_module": wrapper.original_module}
    copies |= {f"modules_to_save.{name}": copy for name, copy in saved.items()}
    active = [] if wrapper.disable_adapters else wrapper.active_adapters
    is_saved = active and all(name in saved for name in active)
    used = f"modules_to_save.{active[0]}" if is_saved else "original_module"
    return {used: copies.pop(used), **copies}


def in_use(part: Part) -> Part:
    """Return the copy in use of a module that PEFT holds in several, or the part itself."""
    for name, copy in saved_copies(part.module).items():
        return in_use(replace(part, name=f"{part.name}.{name}", module=copy))
    return part


def all_copies(transformer: nn.Module, name: str) -> list[nn.Module]:
    """Return a module and its counterparts in the copies that adapters have of what is around it.

    Args:
        transformer: the model.
        name: of the module in one of the copies; a module outside of them is alone.

    Returns:
        The one in use now comes first. The original, of which PEFT makes the copy of each further
        adapter, is there only if it is in use.
    """
    above, *rest = re.split(_COPY, name)
    found = [transformer.get_submodule(above)]
    for below in rest:
        copies = [copy for wrapper in found for copy in _used_or_saved(wrapper)]
        found = [copy.get_submodule(below.removeprefix(".")) for copy in copies]
    return found


def _used_or_saved(wrapper: nn.Module) -> list[nn.Module]:
    used, *others = saved_copies(wrapper).items() or [("", wrapper)]
    return [used[1], *(copy for name, copy in others if name != "original_module")]


def is_copied(part: Part) -> bool:
    """Whether PEFT holds other copies of a part."""
    return re.search(_COPY, part.name) is not None


def matches(pattern: str, name: str) -> bool:
    """Whether a user's regular expression fully matches a module's name, plain or as it is."""
    return any(re.fullmatch(pattern, each) for each in (name, plain_name(name)))


def plain_name(name: str) -> str:
    """Return the name that a module has in the model without PEFT's adapters and copies."""
    return _WRAPPED.sub("", name)


def is_inside(name: str, containers: tuple[str, ...]) -> bool:
    """Whether a module's name is one of ``containers``, or lies below one."""
    return any(name == container or name.startswith(f"{container}.") for container in containers)
