"""Divergence from the mixture of two passes, as the code of HiddenCut (arXiv 2106.00149) has it."""

import math

import torch
from torch import Tensor

from hiddenkey.framework.compensation.probabilities import log_probabilities


def mixture_consistency(logits_1: Tensor, logits_2: Tensor) -> Tensor:
    """Return ½ (D_KL(M‖P₁) + D_KL(M‖P₂)) for every row, M = ½ (P₁ + P₂), P = softmax(logits).

    With d = ½ (log p₁ - log p₂) this is Σ m log cosh d: every term is ≥ 0, so nothing cancels when
    the two passes nearly agree. It is then a quarter of :func:`js.js_consistency`.

    Args:
        logits_1: ``[rows, classes]``.
        logits_2: ``[rows, classes]``.

    Returns:
        ``[rows]``, float32 or wider, in nats.
    """
    log_p1, log_p2 = log_probabilities(logits_1), log_probabilities(logits_2)
    mean = 0.5 * (log_p1.exp() + log_p2.exp())
    half = 0.5 * (log_p1 - log_p2)
    near = half.clamp(-1, 1)  # sinh overflows far away
    far = half.abs() + torch.log1p(torch.exp(-2 * half.abs())) - math.log(2)
    log_cosh = torch.where(half.abs() < 1, torch.log1p(2 * torch.sinh(near / 2) ** 2), far)
    return (mean * log_cosh).sum(-1)
