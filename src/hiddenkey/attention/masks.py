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


# A mask is the same object in every layer; one that a model changed is another, or of another
# version, and unknown.
_KNOWN: MutableMapping[Tensor, tuple[int, Structure]] = WeakIdKeyDictionary()


def structure_of(mask: Tensor) -> Structure | None:
    """Return what a mask consists of; ``None`` if it was not built here or is of another kind."""
    if torch.compiler.is_compiling() or mask not in _KNOWN:
        return None
    version, structure = _KNOWN[mask]
    return structure if mask._version == version else None


def remembering(builder: Builder) -> Builder:
    """Wrap one of transformers' mask builders, so that :func:`structure_of` knows its masks."""

    @functools.wraps(builder)
    def build(*args: Any, **kwargs: Any) -> Any:
        mask = builder(*args, **kwargs)
        # under torch.compile a mask is no object that could be known again
        if isinstance(mask, Tensor) and not args and not torch.compiler.is_compiling():
            structure = _read(kwargs)
            if structure is not None and not mask.is_inference():
                _KNOWN[mask] = (mask._version, structure)
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
        if not hasattr(builders[name], _BUILDER):
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


def _read(request: dict[str, Any]) -> Structure | None:
    """Return the structure of the mask that was asked for, if it is padding and order alone."""
    from transformers import masking_utils

    function = request.get("mask_function", masking_utils.causal_mask_function)
    causal = function is masking_utils.causal_mask_function
    keys: Tensor | None = request.get("attention_mask")
    width, queries = request.get("kv_length"), request.get("q_length")
    if queries is None and (places := request.get("cache_position")) is not None:
        queries = places.shape[0]  # before transformers 5.2
    offsets = (request.get("q_offset", 0), request.get("kv_offset", 0))
    # transformers 4 has no mask that goes in both directions
    if not causal and function is not getattr(masking_utils, "bidirectional_mask_function", None):
        return None
    if not all(isinstance(offset, int) and offset == 0 for offset in offsets):
        return None
    if causal and queries != width:
        return None
    if keys is not None and (keys.dim() != 2 or keys.shape[1] != width):
        return None
    return Structure(None if keys is None else VisibleKeys(keys.bool()), causal)
