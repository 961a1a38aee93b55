"""Consistency with an inference pass (HiddenCut, arXiv 2106.00149)."""

import torch
from torch import Tensor


def js_consistency(logits: Tensor, inference_logits: Tensor) -> Tensor:
    """Return L_JS = D_KL(P₁‖P̄) for every row, P̄ from an inference-mode pass.

    Args:
        logits: ``[rows, classes]`` of the training pass.
        inference_logits: ``[rows, classes]`` of the pass without noise.

    Returns:
        ``[rows]``, float32 or wider, in nats.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    log_p = torch.log_softmax(logits, -1, dtype=wide)
    log_mean = torch.log_softmax(inference_logits, -1, dtype=wide)
    return (log_p.exp() * (log_p - log_mean)).sum(-1)
