"""Consistency with an example's own earlier prediction (temporal ensembling, arXiv 1610.02242).

The prediction q of the example's last training pass is a constant, so that the loss needs no second
pass: ½ (D_KL(Q‖P) + D_KL(P‖Q)), as :func:`kl.bidirectional_kl` has it. PS-KD (arXiv 2006.12000)
takes such predictions as soft labels.
"""

import torch
from torch import Tensor

# A mass of e^-50 is none. Both ways of computing a rest end here.
LEAST_LOG_MASS = -50.0


def squared_difference(values: Tensor, earlier: Tensor) -> Tensor:
    """Return the mean of (v − v')² for every row: the bidirectional KL of regression.

    The mean squared error is, up to a constant, the negative log-likelihood of a Gaussian of
    variance ½; the KL between two such Gaussians is the square of the difference of their means, in
    both directions.

    Args:
        values: ``[rows, outputs]``.
        earlier: ``[rows, outputs]``.

    Returns:
        ``[rows]``, float32 or wider.
    """
    wide = torch.promote_types(values.dtype, torch.float32)
    return (values.to(wide) - earlier.to(wide)).square().mean(-1)


def shortened(log_p: Tensor, classes: Tensor) -> Tensor:
    """Return the log-probabilities of some classes, and of all others together.

    The KL between two shortened distributions is at most that between the whole ones (data
    processing inequality).

    Args:
        log_p: ``[rows, vocabulary]``.
        classes: ``[rows, k]``, different ones in each row.

    Returns:
        ``[rows, k + 1]``; the last is the others', at least :data:`LEAST_LOG_MASS`.
    """
    others = log_p.scatter(-1, classes, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([log_p.gather(-1, classes), others.clamp_min(LEAST_LOG_MASS)], -1)


def narrowed(log_p: Tensor, classes: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Return shortened distributions with fewer classes; those left out join the others.

    Args:
        log_p: ``[rows, k + 1]`` from :func:`shortened`; NaN where a row is unknown.
        classes: ``[rows, k]``.
        top: how many of the k remain, the most likely ones.

    Returns:
        ``[rows, top + 1]`` and ``[rows, top]``.
    """
    order = log_p[:, :-1].argsort(dim=-1, descending=True)
    kept, others = order[:, :top], log_p[:, :-1].gather(-1, order[:, top:])
    others = torch.cat([others, log_p[:, -1:]], -1).logsumexp(-1, keepdim=True)
    return torch.cat([log_p.gather(-1, kept), others], -1), classes.gather(-1, kept)


def shortened_mean(
    log_mean: Tensor, known: Tensor, log_p: Tensor, is_seen: Tensor, top: int, momentum: float
) -> tuple[Tensor, Tensor]:
    """Return what is kept of a running mean after one more prediction, and its classes.

    Shortening to classes C adds probabilities up, so it is linear: of M' = m · M + (1 − m) · P the
    shortened form is m · (M on C) + (1 − m) · (P on C), exactly, if C is the same in all three. So
    a mean keeps the classes that were most likely in the first pass. A class that is likely only
    later stays in the rest, and the divergence remains a lower bound of that from the whole mean.
    Of classes that changed nothing would be known of M but that they share its rest. Without
    momentum no mean is formed, and the most likely classes of the last pass are kept.

    Args:
        log_mean: log M on C, ``[rows, k + 1]``.
        known: C, ``[rows, k]``.
        log_p: log P, ``[rows, vocabulary]``.
        is_seen: ``[rows, 1]``, whether there is an earlier mean.
        top: k.
        momentum: m in [0, 1).

    Returns:
        ``[rows, k + 1]`` and ``[rows, k]``.
    """
    latest = log_p.topk(top, -1).indices
    classes = torch.where(is_seen, known, latest) if momentum else latest
    now = shortened(log_p, classes)
    return torch.where(is_seen, running_mean(log_mean, now, momentum), now), classes


def running_mean(log_mean: Tensor, log_p: Tensor, momentum: float) -> Tensor:
    """Return log(m · mean + (1 − m) · p), for every entry.

    Args:
        log_mean: of the predictions so far.
        log_p: of the last one, same shape.
        momentum: m in [0, 1); 0 keeps the last prediction alone.
    """
    if momentum == 0:
        return log_p
    weights = torch.tensor([momentum, 1 - momentum], dtype=torch.float64).log().tolist()
    return torch.logaddexp(log_mean + weights[0], log_p + weights[1])
