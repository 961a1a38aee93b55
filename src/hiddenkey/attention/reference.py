"""The specification of attention with dropped keys, in plain PyTorch.

DropKey and DropAttention stand side by side here. For equal masks their forward passes are equal:
w'_u = exp(g_u) / Σ_{i kept} exp(g_i). They differ in the gradient (arXiv 2403.00812, section 3.1
and appendix C): DropKey sends none to the logit of a dropped key, DropAttention does, because its
divisor is a constant in the backward pass. Every faster path is tested against this file.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hiddenkey.framework.booleans import none_along
from hiddenkey.framework.compensation import rescale


def dropkey(logits: Tensor, keep: Tensor) -> Tensor:
    """Drop attention logits (DropKey, arXiv 2208.02646): g'_m = −∞; softmax renormalises the rest.

    Args:
        logits: g, ``[batch, heads, queries, keys]``.
        keep: boolean, broadcasts to ``logits``.

    Returns:
        Logits g', to be followed by a softmax.
    """
    return logits.masked_fill(~keep, -math.inf)


def dropattention(weights: Tensor, keep: Tensor, rate: float, rescaling: str) -> Tensor:
    """Drop attention weights (DropAttention, arXiv 1907.11065): w' = R(m · w), w = softmax(g).

    Args:
        weights: w, ``[batch, heads, queries, keys]``.
        keep: boolean m, broadcasts to ``weights``.
        rate: dropout rate p.
        rescaling: R: ``normalised`` divides by NoGrad(Σ_i m_i w_i), ``normalised-with-gradient`` by
            Σ_i m_i w_i, ``inverse`` by 1 − p, ``none`` by 1.

    Returns:
        Weights w'.
    """
    kept = weights * keep
    if rescaling.startswith("normalised"):
        return rescale.normalised(kept, stop_gradient=rescaling == "normalised")
    return kept * rescale.inverse(rate) if rescaling == "inverse" else kept


def safe_softmax(logits: Tensor) -> Tensor:
    """Softmax over the keys that returns zeros, not NaN, where every logit is −∞."""
    blind = logits.eq(-math.inf).all(-1, keepdim=True)
    return torch.softmax(logits.masked_fill(blind, 0.0), -1).masked_fill(blind, 0.0)


def rescue(keep: Tensor, allowed: Tensor) -> Tensor:
    """Give a query that would lose all its visible keys all of them back.

    Args:
        keep: boolean, broadcasts to ``[batch, heads, queries, keys]``.
        allowed: boolean, which keys a query may see, broadcasts likewise.

    Returns:
        Keep mask that leaves every query with a visible key at least one.
    """
    return keep | none_along(keep & allowed, -1, keepdim=True)


def attention(query: Tensor, key: Tensor, value: Tensor, **terms: Any) -> Tensor:
    """Scaled dot-product attention with dropped logits, dropped weights, or both.

    Args:
        query: ``[batch, heads, queries, head_dim]``.
        key: ``[batch, heads, keys, head_dim]``.
        value: ``[batch, heads, keys, value_dim]``.
        terms: of :func:`weights`.

    Returns:
        ``[batch, heads, queries, value_dim]`` in the dtype of ``value``.
    """
    return torch.matmul(weights(query, key, dtype=value.dtype, **terms), value)


def weights(
    query: Tensor,
    key: Tensor,
    *,
    allowed: Tensor,
    scaling: float,
    bias: Tensor | None = None,
    logits_keep: Tensor | None = None,
    weights_keep: Tensor | None = None,
    rate: float = 0.0,
    rescaling: str = "normalised",
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the attention weights by which the values are summed.

    Args:
        query: ``[batch, heads, queries, head_dim]``.
        key: ``[batch, heads, keys, head_dim]``.
        allowed: boolean, which keys a query may see; broadcasts to
            ``[batch, heads, queries, keys]``.
        scaling: factor of the logits.
        bias: added to the logits; broadcasts likewise.
        logits_keep: DropKey's mask; broadcasts likewise.
        weights_keep: DropAttention's mask; broadcasts likewise.
        rate: rate p of ``weights_keep``, for ``inverse`` rescaling.
        rescaling: see :func:`dropattention`.
        dropout: rate of the model's own attention dropout, applied last.
        dtype: of the weights.

    Returns:
        ``[batch, heads, queries, keys]``.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    logits = torch.matmul(query.to(wide), key.to(wide).transpose(-1, -2)) * scaling
    if bias is not None:
        logits = logits + bias
    logits = logits.masked_fill(~allowed, -math.inf)
    if logits_keep is not None:
        logits_keep = rescue(logits_keep, allowed)
        logits = dropkey(logits, logits_keep)
        allowed = allowed & logits_keep
    used = safe_softmax(logits)
    if weights_keep is not None:
        used = dropattention(used, rescue(weights_keep, allowed), rate, rescaling)
    return F.dropout(used.to(dtype), dropout)
