"""What is known of a mask from the way it was built, so that nobody needs to look inside it.

Transformers lays the mask of a padded batch out as ``[batch, 1, queries, keys]``, although all that
is in it are the keys that are padding and, in decoders, the order. Fused attention is fastest when
it is told just that. Comparing the entries would cost a pass over the mask and, on a GPU, a
synchronisation; the builder of the mask knows for nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from hiddenkey.attention.keys import VisibleKeys

Builder = Callable[..., Any]
_BUILDER = "_hiddenkey_builder"  # what a remembering builder calls


@dataclass(frozen=True)
class Structure:
    """What a mask consists of.

    Attributes:
        keys: the keys that are no padding; ``None``: all of them.
        causal: each query sees only its own and earlier keys, counted from the first.
    """

    keys: VisibleKeys | None
    causal: bool


@dataclass(frozen=True)
class Built:
    """What the builder of a mask was asked for.

    Attributes:
        structure: of a mask that is padding and order alone, else ``None``.
        keys: which keys are visible and where sequences begin; ``None``: unknown.
    """

    structure: Structure | None
    keys: VisibleKeys | None


# A mask is the same object in every layer; one that a model changed is another, or of another
# version, and unknown. FlexAttention's block masks have no version: nothing writes into them.
_KNOWN: MutableMapping[Any, tuple[int, Built]] = WeakIdKeyDictionary()


def structure_of(mask: Tensor) -> Structure | None:
    """Return what a mask consists of; ``None`` if it was not built here or is of another kind."""
    built = _built(mask)
    return None if built is None else built.structure


def keys_of(mask: Any) -> VisibleKeys | None:
    """Return the keys of a mask that was built here, a block mask too; else ``None``."""
    built = _built(mask)
    return None if built is None else built.keys


def _built(mask: Any) -> Built | None:
    if torch.compiler.is_compiling() or mask is None or mask not in _KNOWN:
        return None
    version, built = _KNOWN[mask]
    return built if _version(mask) == version else None


def remember_keys(mask: Any, keys: VisibleKeys) -> None:
    """Let :func:`keys_of` know a mask that was not built here."""
    _KNOWN[mask] = (_version(mask), Built(None, keys))


def _version(mask: Any) -> int:
    return mask._version if isinstance(mask, Tensor) else 0


def _device(mask: Any) -> torch.device:
    found: torch.device = (mask if isinstance(mask, Tensor) else mask.kv_num_blocks).device
    return found


def remembering(builder: Builder) -> Builder:
    """Wrap one of transformers' mask builders, so that :func:`structure_of` knows its masks."""

    @functools.wraps(builder)
    def build(*args: Any, **kwargs: Any) -> Any:
        mask = builder(*args, **kwargs)
        # under torch.compile a mask is no object that could be known again
        if mask is None or args or torch.compiler.is_compiling():
            return mask
        if not (isinstance(mask, Tensor) and mask.is_inference()):
            _KNOWN[mask] = (_version(mask), _read(kwargs, _device(mask)))
        return mask

    setattr(build, _BUILDER, builder)
    return build


def remember_masks(names: Iterable[str]) -> None:
    """Let :func:`structure_of` know the masks that transformers builds for these implementations.

    The builders in transformers' table return what they did.
    """
    from transformers import masking_utils

    builders = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    for name in names:
        if name in builders and not hasattr(builders[name], _BUILDER):
            builders[name] = remembering(builders[name])


def forget_masks() -> None:
    """Give transformers' table its own builders back."""
    from transformers import masking_utils

    builders = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    for name, builder in list(builders._local_mapping.items()):
        if (own := getattr(builder, _BUILDER, None)) is not None:
            del builders[name]
            if builders[name] is not own:
                builders[name] = own


def _read(request: dict[str, Any], device: torch.device) -> Built:
    from transformers import masking_utils

    function = request.get("mask_function", masking_utils.causal_mask_function)
    visible: Tensor | None = request.get("attention_mask")
    width, queries = request.get("kv_length"), request.get("q_length")
    if queries is None and (places := request.get("cache_position")) is not None:
        queries = places.shape[0]  # before transformers 5.2
    offsets = (request.get("q_offset", 0), request.get("kv_offset", 0))
    if not all(isinstance(offset, int) and offset == 0 for offset in offsets):
        return Built(None, None)
    if width is None or (visible is not None and (visible.dim() != 2 or visible.shape[1] != width)):
        return Built(None, None)
    if (number := _packed(function)) is not None:  # never with padding
        starts = number.diff(dim=-1, prepend=number[:, :1] - 1) != 0
        return Built(None, VisibleKeys(torch.ones_like(starts), starts))
    keys = None if visible is None else VisibleKeys(visible.bool())
    seen = keys
    if seen is None and (batch := request.get("batch_size")) is not None:
        seen = VisibleKeys(torch.ones(batch, width, dtype=torch.bool, device=device))
    causal = function is masking_utils.causal_mask_function
    # transformers 4 has no mask that goes in both directions
    both = function is getattr(masking_utils, "bidirectional_mask_function", None)
    if both or (causal and queries == width):
        return Built(Structure(keys, causal), seen)
    return Built(None, seen)


def _packed(function: Any) -> Tensor | None:
    """Return the number of each token's sequence, ``[batch, tokens]``, if a row holds several.

    A builder is given transformers' ``packed_sequence_mask_function`` as one of the functions that
    its own is made of, and nothing else tells it.
    """
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    if getattr(function, "__qualname__", "").startswith("packed_sequence_mask_function."):
        return next((each for each in cells if isinstance(each, Tensor)), None)
    parts = [part for cell in cells for part in (cell if isinstance(cell, tuple) else (cell,))]
    found = (_packed(part) for part in parts if callable(part))
    return next((number for number in found if number is not None), None)
