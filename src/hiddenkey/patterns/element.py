"""Each entry by itself, as in ordinary dropout (Srivastava et al., JMLR 15, 2014)."""

import torch
from torch import Tensor


def keep_mask(shape: tuple[int, ...], rate: float, visible: Tensor) -> Tensor:
    """Draw one Bernoulli(1 − rate) for every entry.

    Args:
        shape: ``(*groups, tokens, entries)``.
        rate: probability of falling.
        visible: boolean, broadcasts to ``shape``.

    Returns:
        Keep mask ``[*groups, tokens, entries]``.
    """
    drawn = torch.empty(shape, dtype=torch.bool, device=visible.device).bernoulli_(1 - rate)
    return drawn | ~visible
