"""The embedding sequence, as it enters the first layer (Cutoff, arXiv 2009.13818)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from hiddenkey import anatomy
from hiddenkey.anatomy import Part

if TYPE_CHECKING:
    from hiddenkey.framework.config import DropoutConfig


def find(transformer: nn.Module, layers: list[Part], config: DropoutConfig) -> list[Part]:
    """Return the first layer: what enters it holds token, position and segment embeddings."""
    first = anatomy.find_layers(transformer)[0]
    return [Part(None, first.name, first.module)]
