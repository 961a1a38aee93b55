"""Key-value caches that are handed to a model call, such as the one that holds PEFT's prefixes."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, MutableMapping
from typing import Any, Final

from torch import Tensor

NAMES: Final = ("cache", "past_key_values", "cache_params")
"""What models call it: ``cache`` from transformers 5.24 on, the others before."""


def given(arguments: Mapping[str, Any]) -> str | None:
    """Return the name under which a model call hands a cache over; ``None`` if it does not."""
    return next((name for name in NAMES if arguments.get(name) is not None), None)


def renamed(arguments: Mapping[str, Any], parameters: Collection[str]) -> dict[str, Any]:
    """Return the arguments of a call with the cache under the name that ``forward`` knows.

    Args:
        arguments: of the call, by name.
        parameters: names of the parameters of ``forward``.
    """
    own = next((name for name in NAMES if name in parameters), None)
    name = given(arguments)
    if own is None or name is None or name in parameters:
        return dict(arguments)
    return {
        **{key: arguments[key] for key in arguments if key not in (name, own)},
        own: arguments[name],
    }


def remove_from(output: Any) -> None:
    """Take the cache out of a model's output, in place."""
    if isinstance(output, MutableMapping) and (name := given(dict(output))) is not None:
        output[name] = None


def held(cache: Any) -> Tensor | None:
    """Return what a cache holds of its first layer, ``[batch, ...]``; ``None`` if it is empty."""
    if isinstance(cache, Tensor):
        return cache if cache.dim() > 2 else None
    if isinstance(cache, Mapping):
        parts: Iterable[Any] = cache.values()
    elif isinstance(cache, list | tuple):
        parts = cache
    elif isinstance(cache, type) or not (hasattr(cache, "__dict__") and hasattr(cache, "update")):
        return None
    else:
        parts = vars(cache).values()
    return next((found for part in parts if (found := held(part)) is not None), None)


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
