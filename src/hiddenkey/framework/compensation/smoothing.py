"""Label smoothing (arXiv 1512.00567).

It is the expectation of noise on the labels (DisturbLabel, arXiv 1605.00055).
"""

import torch
from torch import Tensor

# Entries below this share of the type's least number are masked, as tokens outside of a text are.
_MASKED = 0.5


def smoothed_rest(logits: Tensor, at_label: Tensor) -> Tensor:
    """Return CE(u, P) − CE(y, P) for every row, u the uniform distribution, P = softmax(logits).

    Times ε and added to the cross-entropy this is (1 − ε) CE(y, P) + ε CE(u, P). The normaliser of
    the softmax cancels: what is left is the label's logit less the mean of all.

    Args:
        logits: ``[rows, classes]``; masked entries are the type's least number.
        at_label: ``[rows]``, the label's logit.

    Returns:
        ``[rows]``, float32 or wider, in nats; negative where the label is less likely than others.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    visible = logits > torch.finfo(logits.dtype).min * _MASKED
    total = torch.where(visible, logits.to(wide), 0).sum(-1)
    return at_label.to(wide) - total / visible.sum(-1).clamp_min(1)
