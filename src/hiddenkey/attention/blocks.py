"""The drops of attention within blocks: one draw for all columns in which a key stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from hiddenkey.attention.keys import KEY_PATTERNS, VisibleKeys
from hiddenkey.attention.layouts import NO_KEY, Call, Layout, Layouts
from hiddenkey.errors import AttachError
from hiddenkey.framework.booleans import any_along

if TYPE_CHECKING:
    from hiddenkey.attention.site import AttentionSite
    from hiddenkey.framework.config import Drop


class BlockDraws:
    """Draws for the softmaxes of one call of a module, which all have the same keys.

    Which keys are visible is read from the first softmax that has queries: in every served module
    they see, between them, all keys that any query sees. None of the modules has an order, so the
    first key may be dropped as others.

    Args:
        site: the drops.
        call: the call.
        layouts_of: gives its layouts; asked at its first softmax.
    """

    def __init__(
        self, site: AttentionSite, call: Call, layouts_of: Callable[[Call], Layouts]
    ) -> None:
        self._site = site
        self._call = call
        self._layouts_of = layouts_of
        self._layouts: Layouts | None = None
        self._served = 0
        self._visible: VisibleKeys | None = None
        self._kept: dict[str, Tensor] = {}

    def see_gather(self, input: Tensor, dim: int, index: Tensor) -> None:
        """Note which blocks of keys or values the module gathers."""
        if input.dim() == 5:  # [batch, heads, blocks, block, width]
            self._call.gathered.append(index[..., 0, 0])

    def next_draw(self, logits: Tensor) -> Callable[[Drop, Tensor], Tensor]:
        """Return what draws for the next softmax of the call.

        Args:
            logits: of that softmax.

        Returns:
            A function of a drop and of the visible logits, boolean, that returns a keep mask; both
            masks broadcast to ``logits``.

        Raises:
            AttachError: if the logits have not the layout that is known of the module.
        """
        if self._layouts is None:
            self._layouts = self._layouts_of(self._call)
        layouts = self._layouts
        number, self._served = self._served, self._served + 1
        if number >= len(layouts.each) or not _fits(layouts.each[number], layouts.heads, logits):
            raise AttachError(
                f"softmax {number + 1} of {type(self._call.module).__name__} is over logits"
                f" {list(logits.shape)}, which is not the layout of blocks that is known of it;"
                " leave attention drops out, for instance with the method 'hiddencut'"
            )
        layout = layouts.each[number]

        def draw(drop: Drop, visible: Tensor) -> Tensor:
            if not visible.numel():  # a softmax without queries says nothing about the keys
                return visible
            keep = self._draw(drop, _heads_second(visible, layout, layouts.heads), layout)
            return _heads_back(keep, layout)

        return draw

    def _draw(self, drop: Drop, visible: Tensor, layout: Layout) -> Tensor:
        """Return a keep mask that broadcasts to ``[batch, heads, *queries, columns]``."""
        assert self._layouts is not None
        if self._visible is None:
            self._visible = VisibleKeys(visible_keys(visible, layout.keys, self._layouts.keys))
        if drop.pattern in KEY_PATTERNS:
            if drop.position not in self._kept:
                drawn = self._site.draw(drop, visible, self._visible, False)
                self._kept[drop.position] = drawn.squeeze(-2)
            return spread(self._kept[drop.position], layout.keys)
        seen = (visible & layout.keys.ne(NO_KEY)).flatten(2, -2)
        return self._site.draw(drop, seen, self._visible, False).reshape(visible.shape)


def spread(keep: Tensor, keys: Tensor) -> Tensor:
    """Lay a keep mask over the keys out in columns.

    Args:
        keep: boolean ``[batch, heads, keys]``.
        keys: see :attr:`Layout.keys`.

    Returns:
        Keep mask ``[batch, heads, *queries, columns]``, with size 1 where ``keys`` has; True where
        a column holds no key.
    """
    padded = F.pad(keep, (0, 1), value=True)
    index = keys.masked_fill(keys.eq(NO_KEY), keep.shape[-1])
    index = index.expand(*keep.shape[:2], *keys.shape[2:])
    return padded.gather(-1, index.flatten(2)).view(index.shape)


def visible_keys(visible: Tensor, keys: Tensor, count: int) -> Tensor:
    """Return which keys some query of some head sees.

    Args:
        visible: boolean ``[batch, heads, *queries, columns]``.
        keys: see :attr:`Layout.keys`.
        count: number of keys.

    Returns:
        Boolean ``[batch, count]``.
    """
    for axis in range(1, keys.dim() - 1):
        if keys.shape[axis] == 1:
            visible = any_along(visible, axis, keepdim=True)
    index = keys.masked_fill(keys.eq(NO_KEY), count).expand(visible.shape).flatten(1)
    seen = torch.zeros((len(visible), count + 1), dtype=torch.int32, device=visible.device)
    return seen.scatter_add_(1, index, visible.flatten(1).int())[:, :count].bool()


def _heads_second(states: Tensor, layout: Layout, heads: int) -> Tensor:
    if layout.heads_axis == 0:
        return states.reshape(-1, heads, *states.shape[1:])
    return states.movedim(layout.heads_axis, 1)


def _heads_back(states: Tensor, layout: Layout) -> Tensor:
    return states.flatten(0, 1) if layout.heads_axis == 0 else states.movedim(1, layout.heads_axis)


def _fits(layout: Layout, heads: int, logits: Tensor) -> bool:
    if layout.heads_axis == 0 and logits.shape[0] % heads:
        return False
    if logits.dim() != layout.keys.dim() - (layout.heads_axis == 0):
        return False
    shape = _heads_second(logits, layout, heads).shape
    known = zip(layout.keys.shape, shape, strict=True)
    return (
        shape[1] == heads
        and shape[-1] == layout.keys.shape[-1]
        and all(size in (1, found) for size, found in known)
    )
