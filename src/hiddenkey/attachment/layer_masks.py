"""Reads padding from the masks that layers are given, where the model's own call does not tell it.

A model may lay its tokens out in another way than the batch does: the frames of a sound are fewer
than its samples, patches of an image stand behind a text, and a mask of a script's own has four
axes. What each layer is given as ``attention_mask`` fits its states in all of these. FlashAttention
has no mask where texts are packed, and is told their ends or positions.
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

from hiddenkey.attention import dispatch, flash
from hiddenkey.attention.keys import VisibleKeys
from hiddenkey.attention.masks import keys_of
from hiddenkey.attention.view import read_mask
from hiddenkey.step.hooks import parameter_names

_MASK = "attention_mask"
_PLACES, _ENDS = "position_ids", "cu_seq_lens_k"
"""Arguments by which FlashAttention is told where sequences begin."""


class LayerMasks:
    """The mask of the layer at work.

    Args:
        layers: that may be given one.
        packed: whether it matters that rows may hold several sequences each, which is known of
            masks that transformers builds from now on.
    """

    def __init__(self, layers: Iterable[nn.Module], *, packed: bool = False) -> None:
        # of the layer at work: a mask, or the arguments by which sequences are known, by name
        self._given: Any = None
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
        given = self._given
        if given is None:
            return None
        if isinstance(given, Mapping):
            if given[_PLACES].shape != shape:  # ends would reach beyond the states of some tokens
                return None
            keys = flash.read_rows(shape, given[_PLACES].device, None, given)
        else:
            keys = self._read_once(given, shape[0])
        if keys.visible.shape != shape:
            return None
        return keys.visible, None if keys.starts is None else _numbers(keys.starts)

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._given = self._read = None
        if self._remembers:
            dispatch.unregister(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_given": None, "_read": None}  # calls are not copied

    def _read_once(self, mask: Any, batch: int) -> VisibleKeys:
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
                functools.partial(self._enter, place, _attention_of(layer)), with_kwargs=True
            ),
            layer.register_forward_hook(self._prepare_recomputing),
            layer.register_forward_hook(self._leave, always_call=True),
        ]

    def _enter(
        self,
        place: int,
        attention: nn.Module | None,
        layer: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self._given = None
        if not layer.training:
            return
        mask = args[place] if place < len(args) else kwargs.get(_MASK)
        if _is_readable(mask):
            self._given = mask
            return
        places = kwargs.get(_PLACES)
        if mask is None and isinstance(places, Tensor) and _is_in_kernel(attention):
            self._given = {_PLACES: places, _ENDS: kwargs.get(_ENDS)}

    def _prepare_recomputing(self, layer: nn.Module, args: Any, output: Any) -> None:
        """Let activation checkpointing, which goes past hooks, run the layer with its own mask."""
        given, states = self._given, output[0] if isinstance(output, tuple) else output
        if given is None or not isinstance(states, Tensor) or not states.requires_grad:
            return
        if torch.compiler.is_compiling():
            return

        def restore(gradient: Tensor) -> None:
            self._given = given

        states.register_hook(restore)  # type: ignore[no-untyped-call]

    def _leave(self, layer: nn.Module, args: Any, output: Any) -> None:
        self._given = None


def _attention_of(layer: nn.Module) -> nn.Module | None:
    """Return the first module of a layer whose attention has a name in transformers."""
    return next((each for each in layer.modules() if dispatch.implementation(each)), None)


def _is_in_kernel(attention: nn.Module | None) -> bool:
    """Whether FlashAttention computes attention, without a mask; not asked when compiling."""
    if attention is None or torch.compiler.is_compiling():
        return False
    return flash.is_flash(dispatch.implementation(attention))


def _is_readable(mask: Any) -> bool:
    """Whether a mask is of a form whose meaning is known; of other axes and numbers it is not."""
    if not isinstance(mask, Tensor):
        return keys_of(mask) is not None  # a block mask
    if mask.dim() == 2:
        return not mask.is_floating_point()
    return mask.dim() == 4 and (mask.dtype == torch.bool or mask.is_floating_point())


def _keys(mask: Any, batch: int) -> VisibleKeys:
    """Return which keys any query sees, ``[batch, keys]``, and where sequences begin."""
    if not isinstance(mask, Tensor):
        known = keys_of(mask)
        assert known is not None  # or it was not readable
        return known
    if mask.dim() == 2:
        return VisibleKeys(mask.bool())
    if mask.shape[0] not in (1, batch):  # of other states
        return VisibleKeys(mask.new_ones(0, 0, dtype=torch.bool))
    if (known := keys_of(mask)) is not None:
        return known
    return read_mask(mask, causal=False).visible_keys(batch, mask.shape[-1], mask.device)


def _numbers(starts: Tensor) -> Tensor:
    return (starts.flatten().cumsum(0) - 1).view(starts.shape)
