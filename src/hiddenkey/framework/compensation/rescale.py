"""What happens to the units that stay."""

import torch
from torch import Tensor


def inverse(rate: float) -> float:
    """Factor 1/(1 − p) of ordinary dropout: the expectation of a unit does not change."""
    return 1.0 / (1.0 - rate)


def normalised(weights: Tensor, *, stop_gradient: bool) -> Tensor:
    """Divide kept attention weights by their sum (DropAttention, arXiv 1907.11065).

    w'_j = m_j w_j / NoGrad(Σ_i m_i w_i), with NoGrad = stop-gradient. Without the stop-gradient the
    backward pass is that of DropKey (arXiv 2403.00812, section 3.1).

    Args:
        weights: m · w, ``[..., keys]``; zero where a key is dropped.
        stop_gradient: treat the divisor as a constant in the backward pass.

    Returns:
        Weights that sum to one over the keys; all zeros where no key is left.
    """
    divisor = weights.sum(-1, keepdim=True)
    if stop_gradient:
        divisor = divisor.detach()
    return weights / divisor.clamp_min(torch.finfo(weights.dtype).tiny)
