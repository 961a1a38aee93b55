"""Each entry by itself, as in ordinary dropout (Srivastava et al., JMLR 15, 2014)."""

from torch import Tensor

from hiddenkey.framework.patterns.draws import kept


def keep_mask(shape: tuple[int, ...], rate: float, visible: Tensor) -> Tensor:
    """Draw one Bernoulli(1 − rate) for every entry.

    Args:
        shape: ``(*groups, tokens, entries)``.
        rate: dropout rate.
        visible: boolean, broadcasts to ``shape``.

    Returns:
        Keep mask ``[*groups, tokens, entries]``.
    """
    return kept(shape, rate, visible)
