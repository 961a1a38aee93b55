"""Watches that a model's layers are those that were found, and that they train with the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hiddenkey import log
from hiddenkey.anatomy import Part
from hiddenkey.errors import AttachError

Members = tuple[nn.Module, ...]


class KeptLayers:
    """The layers of one model, and the lists that hold them.

    Args:
        transformer: the model.
        noisy: the parts with noise.
        layers: the model's layers.
    """

    def __init__(
        self, transformer: nn.Module, noisy: Iterable[Part], layers: Sequence[Part]
    ) -> None:
        lists = {layer.name.rpartition(".")[0] for layer in layers if not layer.is_named}
        found = {name: transformer.get_submodule(name) for name in lists}
        self._lists = {
            name: (holder, tuple(holder.children()))
            for name, holder in found.items()
            if isinstance(holder, nn.ModuleList | nn.ModuleDict | nn.Sequential)
        }
        self._noisy = list(dict.fromkeys(part.module for part in noisy))
        self._was_told = False

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse a training pass with layers that came later, and tell of one without any noise.

        Args:
            arguments: of the model's call, by name.

        Raises:
            AttachError: if a list of layers holds one that :func:`hiddenkey.attach` did not see.
        """
        if torch.compiler.is_compiling():
            return
        for name, (holder, members) in self._lists.items():
            now = tuple(holder.children())
            if now != members and (new := _came_later(now, members)):
                raise AttachError(
                    f"{name} holds a {type(new).__name__} that was put there after attach, so it"
                    " has no noise; attach again after every change of the model's layers"
                )
        if not self._was_told and self._noisy and not any(m.training for m in self._noisy):
            self._was_told = True
            if log.is_first_process():
                log.logger.warning(
                    "the model trains, but all modules that drop are in evaluation mode, so nothing"
                    " is dropped: something keeps them there, such as a train() of the model's own"
                    " that leaves a frozen part alone; call train() on that part too"
                )


def _came_later(now: Members, members: Members) -> nn.Module | None:
    """Return a member that was none before, and that is not one of them with something around."""
    known = set(members)
    return next((m for m in now if known.isdisjoint(m.modules())), None)
