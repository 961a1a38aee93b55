"""A whole update, for all sequences of a pass (CoTo, arXiv 2506.05713)."""

import torch
from torch import Tensor


def keep_mask(shape: tuple[int, ...], rate: float, visible: Tensor) -> Tensor:
    """Draw one Bernoulli(1 − rate) for all there is: the δ of W·x + δ·B·A·x.

    Args:
        shape: ``(*groups, tokens, entries)``.
        rate: dropout rate.
        visible: boolean, broadcasts to ``shape``.

    Returns:
        Keep mask with a 1 for each axis of ``shape``.
    """
    one = (1,) * len(shape)
    return (torch.rand(one, device=visible.device) >= rate) | ~visible.any().view(one)
