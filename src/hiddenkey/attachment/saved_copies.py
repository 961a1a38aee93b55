"""Watches which of PEFT's copies of a module in ``modules_to_save`` is in use.

Noise is put on the copies of all adapters, so that it stays when another one is set. The original
has none: PEFT makes further copies of it, and hooks would be copied too, with all that they know.
What is not served is refused in training: a copy that came after :func:`hiddenkey.attach`, the
original, and another copy of a whole layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hiddenkey.anatomy import Part
from hiddenkey.anatomy.part import all_copies, is_copied
from hiddenkey.errors import AttachError


class SavedCopies:
    """The copies of one model that an attachment serves.

    Args:
        transformer: the model.
        noisy: the parts with noise, which the copies of all adapters have.
        layers: the model's layers, of which the copy in use is served.
    """

    def __init__(
        self, transformer: nn.Module, noisy: Iterable[Part], layers: Iterable[Part]
    ) -> None:
        self._transformer = transformer
        self._served: dict[str, Sequence[nn.Module]] = {
            part.name: all_copies(transformer, part.name) for part in noisy if is_copied(part)
        }
        self._served |= {layer.name: [layer.module] for layer in layers if is_copied(layer)}

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse a training pass that a copy without noise would serve.

        Args:
            arguments: of the model's call, by name.

        Raises:
            AttachError: naming the module.
        """
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        for name, served in self._served.items():
            if all_copies(self._transformer, name)[0] not in served:
                raise AttachError(
                    f"another copy of {name} than attach found is in use (PEFT's modules_to_save),"
                    " so noise would be lost; attach again after add_adapter, load_adapter and"
                    " set_adapter"
                )
