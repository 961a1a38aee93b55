"""Feed-forward hidden representations (HiddenCut, arXiv 2106.00149)."""

from torch import nn

from hiddenkey import anatomy
from hiddenkey.anatomy import Part


def find(transformer: nn.Module, layers: list[Part], hidden_modules: str | None) -> list[Part]:
    """Return the second dense layer of each feed-forward block; its output is what drops.

    Raises:
        AttachError: if a layer has none or several.
    """
    return anatomy.find_feed_forward(transformer, layers, hidden_modules)
