"""The digits of vision_digits.py, and the order in which a run sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Pixels in [-1, 1] ``[images, 1, 8, 8]`` and classes ``[images]``."""

    pixels: Tensor
    classes: Tensor

    def __getitem__(self, rows: Tensor) -> Images:
        return Images(self.pixels[rows], self.classes[rows])


def load_digits(train: int) -> tuple[Images, Images, Images]:
    """Return training, validation and test images; classes are spread evenly over the three.

    The first 1,000 images of a fixed order are the training pool: ``train`` of them are trained on,
    the others judge the settings. The remaining 797 are the test images.
    """
    from sklearn.datasets import load_digits as load

    pixels, classes = load(return_X_y=True)
    images = Images(
        torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1, torch.tensor(classes)
    )
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    rank = torch.empty(len(classes), dtype=torch.long)  # of an image within its class
    for label in range(10):
        own = order[images.classes[order] == label]
        rank[own] = torch.arange(len(own))
    in_turns = order[rank[order].argsort(stable=True)]
    return images[in_turns[:train]], images[in_turns[train:1000]], images[in_turns[1000:]]


def batches(count: int, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield row numbers ``[size]``, every row once before any comes again; no noise moves them."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(rows) < size:
            rows = torch.cat([rows, torch.randperm(count, generator=generator)])
        yield rows[:size]
        rows = rows[size:]
