"""The two networks, and where they drop: at the output of the recurrent layer, or of each block."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from beyond_transformers.options import Network

PLACES: Final[dict[Network, str]] = {
    "recurrent": "encoder",
    "convolutional": r"features\.[13]",
}
"""``DropoutConfig.hidden_modules`` of each network."""


class RecurrentClassifier(nn.Module):
    """A GRU over word vectors; the mean over the tokens of a text is classified.

    Args:
        words: size of the vocabulary; 0 is padding.
        classes: number of classes.
    """

    def __init__(self, words: int, classes: int, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width, padding_idx=0)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.classifier = nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits ``[batch, classes]`` of ids and their mask, ``[batch, tokens]``."""
        states, _ = self.encoder(self.embed(input_ids))
        visible = attention_mask.unsqueeze(-1).to(states.dtype)
        logits: Tensor = self.classifier((states * visible).sum(1) / visible.sum(1))
        return logits


class ConvolutionalClassifier(nn.Module):
    """Two convolutions on one channel; the mean over the map is classified.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(width, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits ``[batch, classes]`` of images ``[batch, 1, height, width]``."""
        logits: Tensor = self.classifier(self.features(pixels).mean((2, 3)))
        return logits


def build(network: Network, words: int, classes: int, seed: int) -> nn.Module:
    """Build a network; the same seed gives the same weights, whatever the method."""
    torch.manual_seed(seed)
    if network == "recurrent":
        return RecurrentClassifier(words, classes)
    return ConvolutionalClassifier(classes)
