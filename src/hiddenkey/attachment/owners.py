"""Which attachment drops in a module, so that two models which share it cannot both do so."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import nn

from hiddenkey.anatomy import Part
from hiddenkey.errors import AttachError

_owners: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Any]] = weakref.WeakKeyDictionary()


def refuse_owned(parts: Iterable[Part], previous: object | None) -> None:
    """Refuse modules that drop already for another model.

    Each would draw twice in a pass, and whichever was detached first would take the other's drops
    along.

    Args:
        parts: where the model is to drop.
        previous: its own attachment, which makes way for the new one; ``None``: it has none.

    Raises:
        AttachError: if another attachment drops in one of them.
    """
    for part in parts:
        reference = _owners.get(part.module)
        owner = None if reference is None else reference()
        if owner is not None and owner is not previous:
            raise AttachError(
                f"{part.name} drops already, through {type(owner.called_module).__name__}, which"
                " shares it: two models cannot both drop in one module;"
                " detach the other's first, or attach to one module that calls both"
            )


def take(parts: Iterable[Part], attachment: object) -> None:
    """Note where an attachment drops, as long as it lives."""
    for part in parts:
        _owners[part.module] = weakref.ref(attachment)


def disown(attachment: object) -> None:
    """Forget an attachment."""
    for module in [module for module, each in _owners.items() if each() is attachment]:
        del _owners[module]
