"""Which keys of attention are dropped: the draws of DropKey and DropAttention alike."""

from __future__ import annotations

from torch import Tensor

from hiddenkey.framework.booleans import any_along
from hiddenkey.framework.patterns import PATTERNS

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
        first = VisibleKeys(any_along(allowed, -2).squeeze(1)).first
        keep = keep | (first[:, None, None, :] & protect_first)
    return keep.expand(-1, heads, -1, -1)
