"""Bidirectional KL between two training passes (R-Drop, arXiv 2106.14448)."""

from torch import Tensor

from hiddenkey.framework.compensation.probabilities import log_probabilities


def bidirectional_kl(logits_1: Tensor, logits_2: Tensor) -> Tensor:
    """Return ½ (D_KL(P₁‖P₂) + D_KL(P₂‖P₁)) for every row, with P = softmax(logits).

    Computed as ½ Σ (p₁ − p₂)(log p₁ − log p₂): every term is ≥ 0, so nothing cancels when the two
    passes nearly agree.

    Args:
        logits_1: ``[rows, classes]``.
        logits_2: ``[rows, classes]``; detach it to back-propagate through one branch only.

    Returns:
        ``[rows]``, float32 or wider, in nats.
    """
    log_p1, log_p2 = log_probabilities(logits_1), log_probabilities(logits_2)
    return 0.5 * ((log_p1.exp() - log_p2.exp()) * (log_p1 - log_p2)).sum(-1)
