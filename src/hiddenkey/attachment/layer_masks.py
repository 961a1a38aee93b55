"""Reads padding from the masks that layers are given, where the model's own call does not tell it.

A model may lay its tokens out in another way than the batch does: the frames of a sound are fewer
than its samples, patches of an image stand behind a text, and a mask of a script's own has four
axes. What each layer is given as ``attention_mask`` fits its states in all of these.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hiddenkey.attention import dispatch
from hiddenkey.attention.keys import VisibleKeys
from hiddenkey.attention.masks import keys_of
from hiddenkey.attention.view import read_mask
from hiddenkey.step.hooks import parameter_names

_MASK = "attention_mask"


class LayerMasks:
    """The mask of the layer at work.

    Args:
        layers: that may be given one.
        packed: whether it matters that rows may hold several sequences each, which is known of
            masks that transformers builds from now on.
    """

    def __init__(self, layers: Iterable[nn.Module], *, packed: bool = False) -> None:
        self._mask: Tensor | None = None
        # the mask that was read last, which is not kept for it, and what was read
        self._read: tuple[weakref.ref[Tensor], VisibleKeys] | None = None
        self._handles: list[RemovableHandle] = []
        for layer in layers:
            names = parameter_names(layer)
            if _MASK in names:
                self._hook(layer, names.index(_MASK))
        self._remembers = packed and bool(self._handles) and "transformers" in sys.modules
        if self._remembers:
            dispatch.register(self)

    def tokens(self, shape: torch.Size) -> tuple[Tensor, Tensor | None] | None:
        """Return what is known of the tokens of the layer at work.

        Args:
            shape: ``[batch, tokens]`` of the states; ``None`` is returned if the mask is of others.

        Returns:
            Which are visible, boolean ``[batch, tokens]``; and where rows hold several sequences
            each, the number of each token's sequence, from 0 through the batch.
        """
        if self._mask is None:
            return None
        keys = self._read_once(self._mask, shape[0])
        if keys.visible.shape != shape:
            return None
        return keys.visible, None if keys.starts is None else _numbers(keys.starts)

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._mask = self._read = None
        if self._remembers:
            dispatch.unregister(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mask": None, "_read": None}  # calls are not copied

    def _read_once(self, mask: Tensor, batch: int) -> VisibleKeys:
        """Return the keys that any query sees, read once for all layers that have the mask."""
        if torch.compiler.is_compiling():
            return _keys(mask, batch)
        if self._read is not None:
            read, keys = self._read
            if read() is mask and len(keys.visible) == batch:
                return keys
        self._read = weakref.ref(mask), _keys(mask, batch)
        return self._read[1]

    def _hook(self, layer: nn.Module, place: int) -> None:
        self._handles += [
            layer.register_forward_pre_hook(
                functools.partial(self._enter, place), with_kwargs=True
            ),
            layer.register_forward_hook(self._prepare_recomputing),
            layer.register_forward_hook(self._leave, always_call=True),
        ]

    def _enter(
        self, place: int, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        given = args[place] if place < len(args) else kwargs.get(_MASK)
        self._mask = given if layer.training and _is_readable(given) else None

    def _prepare_recomputing(self, layer: nn.Module, args: Any, output: Any) -> None:
        """Let activation checkpointing, which goes past hooks, run the layer with its own mask."""
        mask, states = self._mask, output[0] if isinstance(output, tuple) else output
        if mask is None or not isinstance(states, Tensor) or not states.requires_grad:
            return
        if torch.compiler.is_compiling():
            return

        def restore(gradient: Tensor) -> None:
            self._mask = mask

        states.register_hook(restore)  # type: ignore[no-untyped-call]

    def _leave(self, layer: nn.Module, args: Any, output: Any) -> None:
        self._mask = None


def _is_readable(mask: Any) -> bool:
    """Whether a mask is of a form whose meaning is known; of other axes and numbers it is not."""
    if not isinstance(mask, Tensor):
        return False
    if mask.dim() == 2:
        return not mask.is_floating_point()
    return mask.dim() == 4 and (mask.dtype == torch.bool or mask.is_floating_point())


def _keys(mask: Tensor, batch: int) -> VisibleKeys:
    """Return which keys any query sees, ``[batch, keys]``, and where sequences begin."""
    if mask.dim() == 2:
        return VisibleKeys(mask.bool())
    if mask.shape[0] not in (1, batch):  # of other states
        return VisibleKeys(mask.new_ones(0, 0, dtype=torch.bool))
    if (known := keys_of(mask)) is not None:
        return known
    return read_mask(mask, causal=False).visible_keys(batch, mask.shape[-1], mask.device)


def _numbers(starts: Tensor) -> Tensor:
    return (starts.flatten().cumsum(0) - 1).view(starts.shape)
