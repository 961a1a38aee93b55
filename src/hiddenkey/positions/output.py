"""The representation that enters the classifier or the language-model head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from hiddenkey import anatomy
from hiddenkey.anatomy import Part

if TYPE_CHECKING:
    from hiddenkey.framework.config import DropoutConfig


def find(transformer: nn.Module, layers: list[Part], config: DropoutConfig) -> list[Part]:
    """Return the head; what enters it is what drops.

    Raises:
        AttachError: if the model has no head.
    """
    return [anatomy.find_head(transformer)]
