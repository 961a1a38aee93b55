"""Key-value caches that are handed to a model call, such as the one that holds PEFT's prefixes."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor


def copied(cache: Any, chosen: Tensor | None = None) -> Any:
    """Return a cache of its own for one pass.

    A pass lengthens the cache that it is given, so that two passes need one each. Gradient flows
    through the copy.

    Args:
        cache: transformers' ``Cache``, tuples of tensors, or ``None``.
        chosen: ``[sequences]``, indices of the sequences that take part; ``None`` means all.
    """
    own = _copied(cache)
    if chosen is not None and hasattr(own, "batch_select_indices"):
        own.batch_select_indices(chosen)
    return own


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()  # some layers write into their tensors, others replace them
    if isinstance(value, list | tuple):
        return type(value)(_copied(part) for part in value)
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, type) or not (hasattr(value, "__dict__") and hasattr(value, "update")):
        return value
    own = copy.copy(value)
    own.__dict__.update(_copied(vars(value)))
    return own
