"""Watches that a model's layers and adapters are those that were found, and that they train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hiddenkey import log
from hiddenkey.anatomy import Part
from hiddenkey.anatomy.adapters import Adapters
from hiddenkey.anatomy.low_rank import active_pairs, low_rank_pairs
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
        self._transformer = transformer
        self._lists = {
            name: tuple(holder.children())
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
        for name, members in self._lists.items():
            now = self._members(name)
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

    def _members(self, name: str) -> Members:
        """What a list of layers holds now; it may be another list than before."""
        try:
            return tuple(self._transformer.get_submodule(name).children())
        except AttributeError:
            return ()


class KeptAdapters:
    """Watches that noise on updates knows the modules of all adapters that act.

    Args:
        transformer: the model.
        adapters: of the model.
        adapted: the modules whose updates have noise.
    """

    def __init__(
        self, transformer: nn.Module, adapters: Adapters, adapted: Iterable[nn.Module]
    ) -> None:
        self._transformer, self._adapters = transformer, adapters
        self._settings = dict(adapters.settings)
        # those that the configuration's layers leave out are known as well
        self._known = {*adapted, *(m for m in transformer.modules() if low_rank_pairs(m))}

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse a training pass by an adapter that came later, in modules without noise.

        Args:
            arguments: of the model's call, by name.

        Raises:
            AttachError: if such an adapter acts.
        """
        if torch.compiler.is_compiling() or self._adapters.settings == self._settings:
            return
        for module in self._transformer.modules():
            if module not in self._known and (active := active_pairs(module)):
                raise AttachError(
                    f"adapter {min(active)!r} adapts modules that had none at attach, so its update"
                    " has no noise there; attach again after add_adapter and load_adapter"
                )


def _came_later(now: Members, members: Members) -> nn.Module | None:
    """Return a member that was none before, and that is not one of them with something around."""
    known = set(members)
    return next((m for m in now if known.isdisjoint(m.modules())), None)
