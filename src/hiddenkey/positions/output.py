"""The representation that enters the classifier or the language-model head."""

from torch import nn

from hiddenkey import anatomy
from hiddenkey.anatomy import Part


def find(transformer: nn.Module, layers: list[Part], hidden_modules: str | None) -> list[Part]:
    """Return the head; what enters it is what drops.

    Raises:
        AttachError: if the model has no head.
    """
    return [anatomy.find_head(transformer)]
