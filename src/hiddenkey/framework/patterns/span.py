"""One contiguous run of tokens or keys (HiddenCut, arXiv 2106.00149; Cutoff, arXiv 2009.13818)."""

import torch
from torch import Tensor

from hiddenkey.framework.booleans import any_along


def keep_mask(shape: tuple[int, ...], rate: float, visible: Tensor) -> Tensor:
    """Drop one run of round(rate · n) neighbours among the n visible tokens.

    The start is uniform over all places where the whole run fits. Tokens that are not visible
    neither count nor are dropped, so a run steps over them.

    Args:
        shape: ``(*groups, tokens, entries)``.
        rate: share of the visible tokens that is dropped.
        visible: boolean, broadcasts to ``shape``; a token is visible if any of its entries is.

    Returns:
        Keep mask ``[*groups, tokens, 1]``.
    """
    tokens_visible = any_along(visible, -1, keepdim=True).expand(*shape[:-1], 1)
    place = tokens_visible.cumsum(-2) - 1
    count = tokens_visible.sum(-2, keepdim=True)
    length = (rate * count).round()
    start = (torch.rand(count.shape, device=visible.device) * (count - length + 1)).floor()
    in_run = (place >= start) & (place < start + length)
    return ~(in_run & tokens_visible)
