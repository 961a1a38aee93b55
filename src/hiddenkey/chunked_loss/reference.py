"""The language-model loss in plain PyTorch: the specification of :mod:`hiddenkey.chunked_loss`.

Holds several ``[rows, vocabulary]`` tensors at once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hiddenkey.chunked_loss.sums import EVEN, IGNORED_LABEL, Factors, Sums
from hiddenkey.framework.compensation import CONSISTENCIES


def reference_loss(
    logits: Tensor, labels: Tensor, other_logits: Tensor | None = None, factors: Factors = EVEN
) -> Sums:
    """Return task · Σ CE(z₁, y) + other_task · Σ CE(z₂, y) + divergence · Σ D(z₁, z₂).

    Args:
        logits: z₁ ``[rows, vocabulary]`` of the trained pass.
        labels: y ``[rows]``; rows with −100 do not count.
        other_logits: z₂ ``[compared, vocabulary]``, of the first rows of ``logits`` in a second
            pass; detach it to back-propagate through one branch only.
        factors: of the parts.
    """
    zero = logits.new_zeros((), dtype=torch.promote_types(logits.dtype, torch.float32))
    task = _cross_entropy(logits, labels)
    other_task = divergence = zero
    if other_logits is not None:
        compared = len(other_logits)
        rows = CONSISTENCIES[factors.kind](logits[:compared], other_logits)
        divergence = rows[labels[:compared] != IGNORED_LABEL].sum()
        if factors.other_task:
            other_task = _cross_entropy(other_logits, labels[:compared])
    loss = factors.task * task + factors.other_task * other_task + factors.divergence * divergence
    labelled = labels != IGNORED_LABEL
    kept = logits[labelled].detach()
    log_p = torch.log_softmax(kept, -1, dtype=zero.dtype)
    return Sums(
        loss,
        task.detach(),
        other_task.detach(),
        divergence.detach(),
        correct=(kept.argmax(-1) == labels[labelled]).sum(dtype=zero.dtype),
        entropy=-(log_p.exp() * log_p).sum(),
        rows=len(kept),
    )


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    wide = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(wide), labels, ignore_index=IGNORED_LABEL, reduction="sum")
