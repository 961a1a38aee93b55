"""Attention, logits (DropKey) and weights (DropAttention) alike: which keys fall."""

from torch import Tensor, nn

from hiddenkey import anatomy
from hiddenkey.anatomy import Part
from hiddenkey.errors import AttachError
from hiddenkey.patterns import PATTERNS

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


def find(transformer: nn.Module, layers: list[Part], hidden_modules: str | None) -> list[Part]:
    """Return the attention module of each layer.

    Raises:
        AttachError: if a layer has none that goes through transformers' attention interface.
    """
    found = anatomy.find_attention(layers)
    missing = sorted({part.layer for part in layers} - {part.layer for part in found}, key=str)
    if missing:
        raise AttachError(
            f"{type(transformer).__name__} computes the attention of layers"
            f" {', '.join(map(str, missing))} outside transformers' attention interface, so its"
            " keys cannot be dropped; use a method without attention drops, such as 'hiddencut'"
        )
    return found


def draw_keys(
    pattern: str,
    rate: float,
    keys: VisibleKeys,
    heads: int,
    *,
    protect_first: bool,
    share_heads: bool,
) -> Tensor:
    """Draw a keep mask over the keys, for patterns that are constant over the queries.

    Args:
        pattern: ``column`` or ``span``.
        rate: dropout rate.
        keys: ``[batch, keys]``, those that some query may see.
        heads: number of query heads.
        protect_first: never drop the first visible key; otherwise a head that would lose all its
            visible keys keeps them all.
        share_heads: one draw for all heads of a sample.

    Returns:
        Keep mask ``[batch, heads, keys]``.
    """
    batch, count = keys.visible.shape
    shape = (batch, 1 if share_heads else heads, count, 1)
    keep = PATTERNS[pattern](shape, rate, keys.visible[:, None, :, None]).squeeze(-1)
    if protect_first:
        keep = keep | keys.first.unsqueeze(1)
    else:
        keep = keep | ~(keep & keys.visible.unsqueeze(1)).any(-1, keepdim=True)
    return keep.expand(-1, heads, -1)


def draw_entries(
    rate: float,
    allowed: Tensor,
    heads: int,
    *,
    protect_first: bool,
    share_heads: bool,
) -> Tensor:
    """Draw a keep mask entry by entry.

    Args:
        rate: dropout rate.
        allowed: boolean ``[batch, 1, queries, keys]``, which keys a query may see.
        heads: number of query heads.
        protect_first: never drop the first visible key.
        share_heads: one draw for all heads of a sample.

    Returns:
        Keep mask ``[batch, heads, queries, keys]``, before the rescue of empty queries.
    """
    batch, _, queries, keys = allowed.shape
    shape = (batch, 1 if share_heads else heads, keys, queries)
    keep = PATTERNS["element"](shape, rate, allowed.transpose(-1, -2)).transpose(-1, -2)
    if protect_first:
        first = VisibleKeys(allowed.any(-2).squeeze(1)).first
        keep = keep | first[:, None, None, :]
    return keep.expand(-1, heads, -1, -1)
