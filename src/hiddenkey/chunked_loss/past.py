"""Earlier predictions of labelled tokens, and their comparison with present ones, in place.

A prediction is kept as log P of k classes and of all others together (the rest R). With P the
present one, Q the kept one, both over these k + 1, and D = ½ (D_KL(Q‖P) + D_KL(P‖Q)):

    D = ½ Σⱼ (Pⱼ − Qⱼ) (log Pⱼ − log Qⱼ)
    aⱼ = ∂D/∂log Pⱼ = ½ [Pⱼ (log Pⱼ − log Qⱼ) + Pⱼ − Qⱼ]
    ∂D/∂z_c = p_c (a_j(c) / P_j(c) − Σ a), j(c) the one of the k + 1 that class c is in

:func:`hiddenkey.framework.compensation.temporal.shortened` is the specification.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hiddenkey.framework.compensation.temporal import LEAST_LOG_MASS, running_mean


@dataclass
class Past:
    """Earlier predictions of the labelled rows of a pass; the present ones take their place.

    Attributes:
        log_q: ``[rows, k + 1]``, log Q; not finite in rows that have no earlier prediction.
        classes: ``[rows, k]``, the classes of log Q.
        is_compared: ``[rows, 1]``, rows that enter the sum.
        factor: of the sum of D over the rows.
        momentum: of the running mean that takes their place;
            :func:`hiddenkey.framework.compensation.temporal.shortened_mean` has its definition.
    """

    log_q: Tensor
    classes: Tensor
    is_compared: Tensor
    factor: float
    momentum: float = 0.0


Remember = Callable[[Tensor], Past]
"""From the labels of a pass ``[batch, tokens]`` (−100: none) to what is kept of these tokens."""


def compare_with_past(
    logits: Tensor, p: Tensor, normaliser: Tensor, past: Past, chunk: slice
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compare a few rows with the past, and keep their present predictions or the mean there.

    Args:
        logits: z ``[rows, vocabulary]``.
        p: softmax(z).
        normaliser: logsumexp(z) ``[rows, 1]``.
        past: of all rows.
        chunk: which of them these are.

    Returns:
        Σ D; the classes that were kept, ``[rows, k]``; and of ∂ΣD/∂z the factor of p ``[rows, 1]``
        for all classes, and ``[rows, k]`` what comes to that for these.
    """
    log_q, classes = past.log_q[chunk].clone(), past.classes[chunk].clone()
    log_p = _shortened(logits, p, normaliser, classes)
    is_seen = torch.isfinite(log_q).all(-1, keepdim=True)
    latest = logits.topk(classes.shape[1], -1).indices
    following = torch.where(is_seen, classes, latest) if past.momentum else latest
    now = _shortened(logits, p, normaliser, following)
    past.classes[chunk] = following
    past.log_q[chunk] = torch.where(is_seen, running_mean(log_q, now, past.momentum), now)
    log_q = torch.where(is_seen & past.is_compared[chunk], log_q, log_p)
    present, earlier, delta = log_p.exp(), log_q.exp(), log_p - log_q
    divergence = 0.5 * ((present - earlier) * delta).sum()
    slopes = 0.5 * (present * delta + present - earlier)  # a
    by_mass = slopes / present.clamp_min(torch.finfo(present.dtype).tiny)
    rest = by_mass[:, -1:] - slopes.sum(-1, keepdim=True)
    return divergence, classes, rest, by_mass[:, :-1] - by_mass[:, -1:]


def _shortened(logits: Tensor, p: Tensor, normaliser: Tensor, classes: Tensor) -> Tensor:
    kept = p.gather(-1, classes)
    others = p.scatter_(-1, classes, 0).sum(-1, keepdim=True)
    p.scatter_(-1, classes, kept)
    least = torch.finfo(p.dtype).tiny
    rest = others.clamp_min(least).log().clamp_min(LEAST_LOG_MASS)
    return torch.cat([logits.gather(-1, classes) - normaliser, rest], -1)
