"""One rectangle of a feature map: what a span of tokens becomes where units lie in a plane.

DropBlock (arXiv 1810.12890) drops squares of one size, as many as chance gives. Here it is one
rectangle in each map, as a span is one run in each sequence (HiddenCut, arXiv 2106.00149).
"""

import math

import torch
from torch import Tensor


def keep_mask(shape: tuple[int, ...], rate: float, visible: Tensor) -> Tensor:
    """Drop one rectangle with the proportions of the map.

    Its sides are √rate · height and √rate · width, each rounded up or down by a draw of its own
    whose mean is the side. So the expected area is exactly rate · height · width. The place is
    uniform over all where the whole rectangle fits.

    Args:
        shape: ``(*groups, height, width, entries)``.
        rate: share of the places that is dropped.
        visible: boolean, broadcasts to ``shape``; a place is visible if any of its entries is.

    Returns:
        Keep mask ``[*groups, height, width, 1]``.
    """
    *groups, height, width, _ = shape
    rows = _in_run(groups, height, rate, visible.device)
    columns = _in_run(groups, width, rate, visible.device)
    return ~(rows.unsqueeze(-1) & columns.unsqueeze(-2)).unsqueeze(-1) | ~visible.any(-1, True)


def _in_run(groups: list[int], size: int, rate: float, device: torch.device) -> Tensor:
    """Draw the rectangle's extent along one axis, boolean ``[*groups, size]``."""
    draws = torch.rand(2, *groups, 1, device=device)
    length = (math.sqrt(rate) * size + draws[0]).floor()
    start = (draws[1] * (size - length + 1)).floor()
    place = torch.arange(size, device=device)
    return (place >= start) & (place < start + length)
