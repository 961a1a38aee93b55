"""Finds the stacks of layers of a transformer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from hiddenkey.anatomy.attention import attention_in, computes_attention
from hiddenkey.anatomy.model import is_encoder_decoder, text_config
from hiddenkey.anatomy.part import (
    Part,
    holds_linears,
    in_use,
    innermost,
    is_inside,
    linear_shape,
    matches,
    walk,
)
from hiddenkey.errors import AttachError

_LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
_OTHER_TOWER = re.compile(r"vision|image|audio|speech", re.IGNORECASE)


_MOST_SHOWN = 8


@dataclass(frozen=True)
class Stack:
    """A list of layers.

    Attributes:
        name: the list's name in the transformer.
        layers: its members; their indices are not final.
        owner: config of the model around it, which distinguishes a text tower from others.
    """

    name: str
    layers: tuple[Part, ...]
    owner: Any


def find_layers(
    transformer: nn.Module, attention: str | None = None, named: str | None = None
) -> list[Part]:
    """Return the layers of all stacks of the text part, an encoder's before a decoder's.

    Args:
        transformer: the model.
        attention: see :func:`hiddenkey.anatomy.find_attention`'s ``pattern``.
        named: regular expression that fully matches the names of modules, which are the layers
            where the model has no list of layers; ``None``: it must have one.

    Raises:
        AttachError: if there is none.
    """
    stacks = find_stacks(transformer, attention, named=named)
    members = [layer for stack in stacks for layer in stack.layers]
    return [replace(layer, layer=index) for index, layer in enumerate(members)]


def find_stacks(
    transformer: nn.Module,
    attention: str | None = None,
    *,
    named: str | None = None,
    others: bool = False,
) -> list[Stack]:
    """Find the lists of layers: of modules that hold attention and what follows it.

    In a model of several towers they are those of the text tower, or of the ``others``.

    Args:
        transformer: the model.
        attention: pattern of the names of its attention modules; ``None``: by their code.
        named: pattern of the modules' names where hidden drops act, in a network without attention.
        others: return the other towers' stacks in place of the text tower's.

    Raises:
        AttachError: if there is none.
    """
    whole = Part(None, "", transformer)
    found = _once(_stacks(whole, getattr(transformer, "config", None), attention))
    if not found and attention_in(whole, attention):
        found = _like_siblings(whole) or [Stack("", (whole,), None)]  # a model of one layer
    if not found:
        found = _plain_stacks(transformer)
    if not found and named is not None:
        found = _named_modules(whole, named)
    if not found:
        raise AttachError(
            f"{type(transformer).__name__} has no list of layers with attention in it; if modules"
            " of other names attend, name them with DropoutConfig(attention_modules=<regular"
            " expression>); in a network without attention, name the modules whose outputs drop"
            " with DropoutConfig(hidden_modules=<regular expression>)"
        )
    if is_encoder_decoder(transformer):
        text = [s for s in found if not _OTHER_TOWER.search(type(s.owner).__name__)]
    else:
        text = [s for s in found if type(s.owner) is type(text_config(transformer))]
    if others:
        return [stack for stack in found if text and stack not in text]
    return text or found


def _stacks(part: Part, owner: Any, attention: str | None) -> Iterator[Stack]:
    inner: list[Stack] = []
    for own, child in part.module.named_children():
        below = in_use(Part(None, f"{part.name}.{own}" if part.name else own, child))
        config = getattr(below.module, "config", None)
        inner += _stacks(below, owner if config is None else config, attention)
        if isinstance(child, nn.ModuleList) and _all_attend(child):
            inner.append(Stack(below.name, _with_siblings(part, own), owner))
    if inner:
        yield from inner
    elif isinstance(part.module, _LISTS) and _is_stack(part, attention):
        yield Stack(part.name, _members(part.name, part.module), owner)


def _once(stacks: Iterable[Stack]) -> list[Stack]:
    """Keep each layer where it is found first: models of several tasks may share an encoder."""
    found, seen = [], set[nn.Module]()
    for stack in stacks:
        layers = tuple(layer for layer in stack.layers if layer.module not in seen)
        seen |= {layer.module for layer in layers}
        if layers:
            found.append(replace(stack, layers=layers))
    return found


def _members(name: str, modules: nn.Module) -> tuple[Part, ...]:
    start = f"{name}." if name else ""
    members = (innermost(Part(None, f"{start}{i}", m)) for i, m in modules.named_children())
    return tuple(replace(part, is_bare=computes_attention(part.module)) for part in members)


def _all_attend(modules: nn.ModuleList) -> bool:
    """Whether a list holds attention modules and nothing else."""
    used = (in_use(Part(None, "", module)).module for module in modules)
    return len(modules) > 0 and all(map(computes_attention, used))


def _with_siblings(parent: Part, own: str) -> tuple[Part, ...]:
    """Return the layers of a model that keeps their parts in lists beside each other (XLM)."""
    start = f"{parent.name}." if parent.name else ""
    attention = getattr(parent.module, own)
    lists = {
        f"{start}{name}": modules
        for name, modules in parent.module.named_children()
        if isinstance(modules, nn.ModuleList) and len(modules) == len(attention)
        if name != own and not _is_stack(Part(None, f"{start}{name}", modules), None)
    }
    return tuple(
        replace(
            in_use(Part(None, f"{start}{own}.{i}", module)),
            is_bare=True,
            beside=tuple((f"{name}.{i}", modules[i]) for name, modules in lists.items()),
        )
        for i, module in enumerate(attention)
    )


def _is_stack(modules: Part, attention: str | None) -> bool:
    """Whether a list holds layers, and not the parts of one layer (as in T5)."""
    members = _members(modules.name, modules.module)
    with_attention = [member for member in members if attention_in(member, attention)]
    if not with_attention or all(member.is_bare for member in members):
        return False
    kinds = Counter(type(member.module) for member in members)
    main, count = kinds.most_common(1)[0]
    whole = [member for member in with_attention if not member.is_bare]
    is_uniform = 2 * count > len(members) and any(type(m.module) is main for m in whole)
    return is_uniform or any(_has_more(member, attention) for member in with_attention)


def _has_more(layer: Part, attention: str | None) -> bool:
    """Whether there is more than attention in a layer."""
    inside = tuple(part.name for part in attention_in(layer, attention))
    outside = [part for part in walk(layer) if not is_inside(part.name, inside)]
    shapes = [linear_shape(part.module) for part in outside]
    return any(shape is not None and shape[0] != shape[1] for shape in shapes)


def _like_siblings(whole: Part) -> list[Stack]:
    """Return the layers of a model that has each as an attribute of its own, and no list of them.

    They are several modules of one class beside each other that attend.
    """
    for part in (whole, *walk(whole)):
        start = f"{part.name}." if part.name else ""
        members = [
            innermost(Part(None, f"{start}{own}", child))
            for own, child in part.module.named_children()
            if attention_in(Part(None, f"{start}{own}", child)) and not computes_attention(child)
        ]
        kinds = Counter(type(member.module) for member in members).most_common(1)
        if kinds and kinds[0][1] > 1:
            layers = tuple(member for member in members if type(member.module) is kinds[0][0])
            return [Stack(part.name, layers, None)]
    return []


def _plain_stacks(transformer: nn.Module) -> list[Stack]:
    """Return the lists as long as the config says, where no layer has attention."""
    count = getattr(text_config(transformer), "num_hidden_layers", None)
    modules = ((part.name, part.module) for part in walk(Part(None, "", transformer)))
    lists = {
        name: module
        for name, module in modules
        if isinstance(module, nn.ModuleList) and len(module) == count and holds_linears(module[0])
    }
    outermost = [n for n in lists if not any(n.startswith(f"{other}.") for other in lists)]
    return [Stack(name, _members(name, lists[name]), None) for name in outermost]


def _named_modules(whole: Part, pattern: str) -> list[Stack]:
    """Return what a user names in a model without layers, such as a convolutional network.

    Raises:
        AttachError: if the pattern matches no module.
    """
    parts = list(walk(whole))
    hits = [part for part in parts if matches(pattern, part.name)]
    if not hits:
        names = ", ".join(repr(part.name) for part in parts[:_MOST_SHOWN] if part.name)
        raise AttachError(
            f"{type(whole.module).__name__} has no layers with attention, and no module that"
            f" hidden_modules={pattern!r} matches; name some of {names}"
        )
    return [Stack("", tuple(replace(part, is_named=True) for part in hits), None)]
