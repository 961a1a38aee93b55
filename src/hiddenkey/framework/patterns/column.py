"""A whole column: a key for all queries (DropKey, arXiv 2208.02646), a token's whole vector."""

from torch import Tensor

from hiddenkey.framework.booleans import any_along
from hiddenkey.framework.patterns.draws import kept


def keep_mask(shape: tuple[int, ...], rate: float, visible: Tensor) -> Tensor:
    """Draw one Bernoulli(1 − rate) for every token, shared by all its entries.

    Args:
        shape: ``(*groups, tokens, entries)``.
        rate: dropout rate.
        visible: boolean, broadcasts to ``shape``; a token is visible if any of its entries is.

    Returns:
        Keep mask ``[*groups, tokens, 1]``.
    """
    visible = visible if visible.shape[-1] == 1 else any_along(visible, -1, keepdim=True)
    return kept((*shape[:-1], 1), rate, visible)
