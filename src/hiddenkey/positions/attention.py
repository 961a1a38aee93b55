"""Attention, logits (DropKey) and weights (DropAttention) alike: which keys fall."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from hiddenkey import anatomy
from hiddenkey.anatomy import Gap, Part
from hiddenkey.anatomy.part import is_inside
from hiddenkey.anatomy.unsuited import refusal
from hiddenkey.errors import AttachError
from hiddenkey.framework.patterns import PATTERNS

if TYPE_CHECKING:
    from hiddenkey.framework.config import DropoutConfig

_ROUTING = re.compile(r"router|gate|expert|moe|mlp", re.IGNORECASE)
KEY_PATTERNS = ("column", "span")
"""Patterns whose masks are constant over the queries."""


class VisibleKeys:
    """The keys that some query may see; what is derived of them is computed once for all layers.

    Args:
        visible: boolean ``[batch, keys]``.
    """

    def __init__(self, visible: Tensor) -> None:
        self.visible = visible
        self._first: Tensor | None = None
        self._count: Tensor | None = None

    @property
    def first(self) -> Tensor:
        """The first visible key of each sequence, and nothing where there is none."""
        if self._first is None:
            self._first = self.visible & self.visible.cumsum(-1).eq(1)
        return self._first

    @property
    def count(self) -> Tensor:
        """How many there are in the batch, on their device."""
        if self._count is None:
            self._count = self.visible.sum()
        return self._count


def find(transformer: nn.Module, layers: list[Part], config: DropoutConfig) -> Sequence[Part | Gap]:
    """Return the attention modules of each layer, and the layers that have none.

    Raises:
        AttachError: if no layer has softmax attention of the wanted kinds.
    """
    found = anatomy.find_attention(layers, config.attention_modules, config.attention)
    if not found:
        kinds = " or ".join(config.attention)
        raise AttachError(
            f"{type(transformer).__name__} computes no softmax {kinds}-attention in its layers, so"
            " it has no keys to drop; use a method without attention drops, such as 'hiddencut'"
        )
    for part in found:
        if reason := refusal(part.module):
            raise AttachError(
                f"{part.name} ({type(part.module).__name__}) {reason}, so its keys cannot be"
                " dropped; use a method without attention drops, such as 'hiddencut'"
            )
    reached = {part.layer for part in found}
    missing = [_gap(layer, config.attention) for layer in layers if layer.layer not in reached]
    if config.attention_modules is not None:  # the user has said which
        return [*found, *missing]
    outside = _outside(transformer, anatomy.find_layers(transformer))
    names = {part.name for part in found}
    return [*found, *missing, *(gap for gap in outside if gap.name not in names)]


def _outside(transformer: nn.Module, layers: list[Part]) -> list[Gap]:
    """Return what else attends: towers beside the text's, a pooling head behind the layers."""
    towers = [stack.name for stack in anatomy.find_stacks(transformer, others=True)]
    inside = {name for layer in layers for name in (layer.name, *(n for n, _ in layer.beside))}
    found = anatomy.find_attention([Part(None, "", transformer)])
    alone = [part.name for part in found if not is_inside(part.name, (*inside, *towers))]
    return [
        *(Gap(None, name, "attention", "another tower than the text's") for name in towers),
        *(Gap(None, name, "attention", "attention outside the layers") for name in alone),
    ]


def _gap(layer: Part, kinds: Sequence[str]) -> Gap:
    if anatomy.find_attention([layer]):
        return Gap(layer.layer, layer.name, "attention", f"no {' or '.join(kinds)}-attention")
    unnamed = [
        f"{part.name} ({type(part.module).__name__})"
        for part in anatomy.walk(layer)
        if anatomy.calls_softmax(part.module) and not _ROUTING.search(part.name)
    ]
    if unnamed:
        reason = (
            f"a softmax in {', '.join(unnamed)}, of which neither name nor class says attention; if"
            " it is, name it with DropoutConfig(attention_modules=<regular expression>)"
        )
    else:
        children = (type(child).__name__ for child in layer.module.children())
        reason = f"no softmax attention, only {', '.join(dict.fromkeys(children))}"
    return Gap(layer.layer, layer.name, "attention", reason)


def draw_keys(
    pattern: str,
    rate: float,
    keys: VisibleKeys,
    heads: int,
    *,
    protect_first: bool | Tensor,
    share_heads: bool,
) -> Tensor:
    """Draw a keep mask over the keys, for patterns that are constant over the queries.

    Args:
        pattern: ``column`` or ``span``.
        rate: dropout rate.
        keys: ``[batch, keys]``, those that some query may see.
        heads: number of query heads.
        protect_first: never drop the first visible key; otherwise a head that would lose all its
            visible keys keeps them all. A boolean scalar where only the device knows.
        share_heads: one draw for all heads of a sample.

    Returns:
        Keep mask ``[batch, heads, keys]``.
    """
    batch, count = keys.visible.shape
    shape = (batch, 1 if share_heads else heads, count, 1)
    keep = PATTERNS[pattern](shape, rate, keys.visible[:, None, :, None]).squeeze(-1)
    if protect_first is not False:
        keep = keep | (keys.first.unsqueeze(1) & protect_first)
    if protect_first is not True:
        keep = keep | ~(keep & keys.visible.unsqueeze(1)).any(-1, keepdim=True)
    return keep.expand(-1, heads, -1)


def draw_entries(
    pattern: str,
    rate: float,
    allowed: Tensor,
    heads: int,
    *,
    protect_first: bool | Tensor,
    share_heads: bool,
) -> Tensor:
    """Draw a keep mask entry by entry.

    Args:
        pattern: key of ``PATTERNS``.
        rate: dropout rate.
        allowed: boolean ``[batch, 1, queries, keys]``, which keys a query may see.
        heads: number of query heads.
        protect_first: never drop the first visible key; a boolean scalar where only the device
            knows.
        share_heads: one draw for all heads of a sample.

    Returns:
        Keep mask ``[batch, heads, queries, keys]``, before the rescue of empty queries.
    """
    batch, _, queries, keys = allowed.shape
    shape = (batch, 1 if share_heads else heads, keys, queries)
    keep = PATTERNS[pattern](shape, rate, allowed.transpose(-1, -2)).transpose(-1, -2)
    if protect_first is not False:
        first = VisibleKeys(allowed.any(-2).squeeze(1)).first
        keep = keep | (first[:, None, None, :] & protect_first)
    return keep.expand(-1, heads, -1, -1)
