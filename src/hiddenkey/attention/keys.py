"""Which keys of attention are dropped: the draws of DropKey and DropAttention alike."""

from __future__ import annotations

import torch
from torch import Tensor

from hiddenkey.framework.booleans import any_along, none_along
from hiddenkey.framework.patterns import PATTERNS

KEY_PATTERNS = ("column", "span")
"""Patterns whose masks are constant over the queries."""


class VisibleKeys:
    """The keys that some query may see; what is derived of them is computed once for all layers.

    Args:
        visible: boolean ``[batch, keys]``.
        starts: boolean ``[batch, keys]``: where sequences begin, if rows hold several that do not
            see each other; ``None``: each row is one.
    """

    def __init__(self, visible: Tensor, starts: Tensor | None = None) -> None:
        self.visible = visible
        self.starts = starts
        self._first: Tensor | None = None
        self._count: Tensor | None = None
        self._number: Tensor | None = None
        self._apart: VisibleKeys | None = None

    @property
    def first(self) -> Tensor:
        """The first visible key of each sequence, and nothing where there is none."""
        if self._first is None:
            place = self.visible.cumsum(-1)
            if self.starts is not None:
                before = (place - self.visible.long()).masked_fill(~self.starts, 0)
                place = place - before.cummax(-1).values
            self._first = self.visible & place.eq(1)
        return self._first

    @property
    def count(self) -> Tensor:
        """How many there are in the batch, on their device."""
        if self._count is None:
            self._count = self.visible.sum()
        return self._count

    @property
    def number(self) -> Tensor:
        """Which sequence of its row each key belongs to, ``[batch, keys]``, from 0."""
        if self._number is None:
            assert self.starts is not None
            self._number = self.starts.cumsum(-1) - 1
        return self._number

    @property
    def apart(self) -> VisibleKeys:
        """A row of its own for each sequence: ``[sequences, batch · keys]``.

        How many there are is data, so that a device is waited for, once.
        """
        if self._apart is None:
            assert self.starts is not None
            number = self.starts.flatten().cumsum(0) - 1
            each = torch.arange(int(number[-1]) + 1, device=number.device)
            own = each.unsqueeze(1) == number
            self._apart = VisibleKeys(own & self.visible.flatten())
        return self._apart


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
        protect_first: never drop the first visible key of a sequence; otherwise a head that would
            lose all visible keys of one keeps them all. A boolean scalar where only the device
            knows.
        share_heads: one draw for all heads of a sample.

    Returns:
        Keep mask ``[batch, heads, keys]``.
    """
    own = 1 if share_heads else heads
    if keys.starts is not None and pattern == "span":  # runs must not reach into another sequence
        keep = _joined(_draw(pattern, rate, keys.apart, own), keys)
    else:
        keep = _draw(pattern, rate, keys, own)
    if protect_first is not False:
        keep = keep | (keys.first.unsqueeze(1) & protect_first)
    if protect_first is not True:
        keep = keep | _lost(keep & keys.visible.unsqueeze(1), keys)
    return keep.expand(-1, heads, -1)


def _draw(pattern: str, rate: float, keys: VisibleKeys, heads: int) -> Tensor:
    shape = (len(keys.visible), heads, keys.visible.shape[1], 1)
    return PATTERNS[pattern](shape, rate, keys.visible[:, None, :, None]).squeeze(-1)


def _joined(keep: Tensor, keys: VisibleKeys) -> Tensor:
    """Put what was drawn apart, ``[sequences, heads, batch · keys]``, into the rows."""
    whole = (keep | ~keys.apart.visible.unsqueeze(1)).all(0)
    return whole.view(-1, *keys.visible.shape).transpose(0, 1)


def _lost(seen: Tensor, keys: VisibleKeys) -> Tensor:
    """Whether nothing is seen of a key's sequence; broadcasts to ``seen``."""
    if keys.starts is None:
        return none_along(seen, -1, keepdim=True)
    number = keys.number.unsqueeze(1).expand(seen.shape)
    counts = torch.zeros(seen.shape, dtype=torch.int32, device=seen.device)
    return counts.scatter_add(-1, number, seen.int()).gather(-1, number).eq(0)


def draw_entries(
    pattern: str,
    rate: float,
    allowed: Tensor,
    heads: int,
    *,
    protect_first: bool | Tensor,
    share_heads: bool,
    first: Tensor | None = None,
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
        first: boolean ``[batch, keys]``, the first visible key of each sequence; ``None``: that of
            each row.

    Returns:
        Keep mask ``[batch, heads, queries, keys]``, before the rescue of empty queries.
    """
    batch, _, queries, keys = allowed.shape
    shape = (batch, 1 if share_heads else heads, keys, queries)
    keep = PATTERNS[pattern](shape, rate, allowed.transpose(-1, -2)).transpose(-1, -2)
    if protect_first is not False:
        if first is None:
            first = VisibleKeys(any_along(allowed, -2).squeeze(1)).first
        keep = keep | (first[:, None, None, :] & protect_first)
    return keep.expand(-1, heads, -1, -1)
