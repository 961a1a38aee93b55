"""Finds attention modules by what their code calls."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from hiddenkey.anatomy.code import calls, constants
from hiddenkey.anatomy.part import Part, innermost, matches, plain_name, walk
from hiddenkey.anatomy.unsuited import has_tokens_as_keys
from hiddenkey.errors import AttachError

Kind = Literal["self", "cross"]
"""What the keys are: the sequence itself, or another one, such as an encoder's output."""

_INTERFACE = "ALL_ATTENTION_FUNCTIONS"
_CERTAIN = {_INTERFACE, "scaled_dot_product_attention", "multi_head_attention_forward"}
_SOFTMAX = {"softmax", "Softmax"}
_NAMED_ATTENTION = re.compile(r"attn|attention|mha", re.IGNORECASE)
_NAMED_KEY = re.compile(r"(k|v|kv|key|value|key_?value)(_|$)")
_NAMED_CROSS = re.compile(r"cross|enc_?dec|encoder_att|multihead_attn$", re.IGNORECASE)


@dataclass(frozen=True)
class AttentionPart(Part):
    """A module that computes attention.

    Attributes:
        kind: what its keys are.
        through_interface: it calls transformers' attention interface; otherwise its calls of
            softmax and of ``scaled_dot_product_attention`` are intercepted.
    """

    kind: Kind
    through_interface: bool


def find_attention(
    layers: list[Part], pattern: str | None = None, kinds: tuple[str, ...] = get_args(Kind)
) -> list[AttentionPart]:
    """Find the innermost modules that compute softmax attention.

    A module counts if its code calls transformers' attention interface or
    ``scaled_dot_product_attention``, or if it calls softmax and its name or class says attention
    (a router's softmax over experts does not).

    Args:
        layers: the layers to search.
        pattern: regular expression that fully matches the names of the wanted modules instead.
        kinds: which kinds to return.

    Raises:
        AttachError: if ``pattern`` matches nothing.
    """
    found: dict[nn.Module, AttentionPart] = {}
    for layer in layers:
        for part in attention_in(layer, pattern):
            found.setdefault(part.module, part)  # what layers share belongs to the first of them
    if pattern is not None and not found:
        raise AttachError(
            f"attention_modules={pattern!r} fully matches no module's name inside the layers"
            f" {layers[0].name} to {layers[-1].name}"
        )
    return [part for part in found.values() if part.kind in kinds]


def attention_in(layer: Part, pattern: str | None = None) -> list[AttentionPart]:
    """Return the innermost modules below a part that compute attention."""
    inside = map(innermost, walk(layer))
    parts = [_attention(part) for part in inside if _is_wanted(part, pattern)]
    outer = {p.name for p in parts if any(q.name.startswith(f"{p.name}.") for q in parts)}
    return [part for part in parts if part.name not in outer]


def reads_encoder(name: str) -> bool:
    """Whether a decoder's module of this name maps the encoder's output to keys or values."""
    *around, own = plain_name(name).split(".")
    return bool(_NAMED_KEY.match(own)) and any(map(_NAMED_CROSS.search, around))


def _attention(part: Part) -> AttentionPart:
    is_cross = getattr(part.module, "is_cross_attention", None)
    if not isinstance(is_cross, bool):
        own = plain_name(part.name).rpartition(".")[2]
        is_cross = bool(_NAMED_CROSS.search(own) or _NAMED_CROSS.search(type(part.module).__name__))
    names = calls(part.module)
    kind: Kind = "cross" if is_cross else "self"
    through_interface = _INTERFACE in names and not _asks_for_sdpa(part.module)
    return AttentionPart(part.layer, part.name, part.module, kind, through_interface)


def _asks_for_sdpa(module: nn.Module) -> bool:
    """Whether a module behaves differently under another name than ``sdpa``.

    Those with sparse attention build a mask of their own for the implementations that they know.
    """
    return "_attn_implementation" in calls(module) and "sdpa" in constants(module)


def computes_attention(module: nn.Module, name: str = "") -> bool:
    """Whether a module computes softmax attention by itself, told by its code and its names.

    Args:
        module: the module.
        name: its own name in the module around it.
    """
    if not has_tokens_as_keys(module):
        return False
    if _is_certain(module):
        return True
    if _is_of_torch(module):
        return False
    named = _NAMED_ATTENTION.search(f"{name} {type(module).__name__}") is not None
    return named and calls_softmax(module)


def calls_softmax(module: nn.Module) -> bool:
    """Whether a module's code, or a ``Softmax`` among its children, takes a softmax."""
    by_child = any(isinstance(child, nn.Softmax) for child in module.children())
    return not _is_of_torch(module) and (by_child or bool(_SOFTMAX & calls(module)))


def _is_wanted(part: Part, pattern: str | None) -> bool:
    if pattern is not None:
        return matches(pattern, part.name)
    return computes_attention(part.module, plain_name(part.name).rpartition(".")[2])


def _is_certain(module: nn.Module) -> bool:
    """Whether a module calls something that can only be attention."""
    if isinstance(module, nn.MultiheadAttention):
        return True
    return not _is_of_torch(module) and bool(_CERTAIN & calls(module))


def _is_of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")
