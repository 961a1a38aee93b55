"""Consistency with an inference pass (HiddenCut, arXiv 2106.00149)."""

import torch
from torch import Tensor

from hiddenkey.framework.compensation.probabilities import log_probabilities


def js_consistency(logits: Tensor, inference_logits: Tensor) -> Tensor:
    """Return L_JS = D_KL(P₁‖P̄) for every row, P̄ from an inference-mode pass.

    With δ = log p - log p̄, Σ p δ = Σ (p δ + p̄ - p) = Σ p (δ + expm1(-δ)): every term is ≥ 0, so
    nothing cancels when the two passes nearly agree.

    Args:
        logits: ``[rows, classes]`` of the training pass.
        inference_logits: ``[rows, classes]`` of the pass without noise.

    Returns:
        ``[rows]``, float32 or wider, in nats.
    """
    log_p, log_mean = log_probabilities(logits), log_probabilities(inference_logits)
    p, delta = log_p.exp(), log_p - log_mean
    near = delta.clamp(-1, 1)  # expm1 overflows far away, where the plain form is exact enough
    terms = torch.where(
        delta.abs() < 1, p * (near + torch.expm1(-near)), p * delta + log_mean.exp() - p
    )
    return terms.sum(-1)
