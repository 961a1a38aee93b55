"""A feature for all tokens of a sequence (feature cutoff, arXiv 2009.13818)."""

import torch
from torch import Tensor

from hiddenkey.framework.booleans import any_along


def keep_mask(shape: tuple[int, ...], rate: float, visible: Tensor) -> Tensor:
    """Draw one Bernoulli(1 − rate) for every feature, shared by all tokens of the sequence.

    Args:
        shape: ``(*groups, tokens, entries)``.
        rate: dropout rate.
        visible: boolean, broadcasts to ``shape``; a sequence is visible if any of its tokens is.

    Returns:
        Keep mask ``[*groups, 1, entries]``.
    """
    drawn = torch.empty((*shape[:-2], 1, shape[-1]), dtype=torch.bool, device=visible.device)
    return drawn.bernoulli_(1 - rate) | ~any_along(visible, -2, keepdim=True)
