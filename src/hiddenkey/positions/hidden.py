"""Feed-forward hidden representations (HiddenCut, arXiv 2106.00149)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from hiddenkey import anatomy
from hiddenkey.anatomy import Gap, Part

if TYPE_CHECKING:
    from hiddenkey.framework.config import DropoutConfig


def find(transformer: nn.Module, layers: list[Part], config: DropoutConfig) -> Sequence[Part | Gap]:
    """Return the last linear layer of each feed-forward block; its output is what drops.

    Raises:
        AttachError: if a layer leaves open which it is, or no layer has one.
    """
    return anatomy.find_feed_forward(transformer, layers, config.hidden_modules)
