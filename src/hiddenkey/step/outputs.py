"""What a model's call returned, of whatever kind it is."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from hiddenkey.errors import ConsistencyError


def put(output: Any, name: str, value: Any) -> None:
    """Change an entry of an output: of transformers' own, or of an object that a model made.

    Args:
        output: what the call returned, which has the entry.
        name: of the entry.
        value: the new one.

    Raises:
        ConsistencyError: if it cannot be changed.
    """
    if isinstance(output, MutableMapping):
        output[name] = value
        return
    try:
        setattr(output, name, value)
    except AttributeError as error:  # a named tuple, a frozen dataclass
        raise ConsistencyError(
            f"the consistency loss is added to output.{name}, but this model returned a"
            f" {type(output).__name__}, which cannot be changed; let it return transformers'"
            " ModelOutput, or hold the pass by attachment.own_loss(labels)"
        ) from error
