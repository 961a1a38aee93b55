"""Values and gradients of the language-model loss for a few rows of logits, in place.

With d = z₁ − z₂, l = logsumexp(z), δ = log p₁ − log p₂ = d − (l₁ − l₂), everything follows from p₁,
d and D = p₁ − p₂ = (p₁ + p₂) tanh(δ/2), which cancels nothing when the two passes nearly agree and
overflows nowhere when they do not:

    J = ½ (D_KL(P₁‖P₂) + D_KL(P₂‖P₁)) = ½ Σ D δ            every term is ≥ 0
    ∂J/∂z₁ =  ½ [p₁ (δ − Σ p₁ δ) + D]
    ∂J/∂z₂ = −½ [p₂ (δ − Σ p₂ δ) + D]
    K = D_KL(P₁‖P₂) = Σ p₁ δ,    ∂K/∂z₁ = p₁ (δ − Σ p₁ δ)
    ∂CE(z, y)/∂z = p − onehot(y)

This is ½ Σ p₂ expm1(δ) δ, since p₂ expm1(δ) = D. d is given, not formed from z₁ and z₂: the small
difference of two logits in low precision would be their rounding error.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hiddenkey.chunked_loss.past import Past, compare_with_past
from hiddenkey.chunked_loss.sums import Factors


class RowSums(NamedTuple):
    """Sums over a few rows, each a scalar; see :class:`hiddenkey.chunked_loss.sums.Sums`."""

    task: Tensor
    other_task: Tensor
    divergence: Tensor
    correct: Tensor
    entropy: Tensor


def task_rows(
    logits: Tensor, labels: Tensor, *, entropy: bool, gradient: bool, smoothing: float = 0.0
) -> RowSums:
    """Cross-entropy of rows that have no partner, and ε (CE(u, P) − CE(y, P)).

    Args:
        logits: ``[rows, vocabulary]``; becomes ∂loss/∂z where ``gradient`` is set.
        labels: ``[rows]``.
        smoothing: ε; 0 without label smoothing.
        entropy: add up the entropy too.
        gradient: leave the gradient in ``logits``.
    """
    top = logits.amax(-1, keepdim=True)
    at_label = logits.gather(-1, labels[:, None])
    p = torch.softmax(logits, -1)
    normaliser = _normaliser(top, p)
    zero = top.new_zeros(())
    sums = RowSums(
        (normaliser - at_label).sum(),
        zero,
        (at_label - logits.mean(-1, keepdim=True)).sum() if smoothing else zero,
        (at_label == top).sum(dtype=top.dtype),
        _entropy(p, logits, normaliser) if entropy else zero,
    )
    if gradient:
        logits.copy_(p).scatter_add_(-1, labels[:, None], torch.full_like(at_label, smoothing - 1))
        if smoothing:
            logits -= smoothing / logits.shape[1]
    return sums


def remembered_rows(
    logits: Tensor,
    labels: Tensor,
    past: Past,
    chunk: slice,
    factors: Factors,
    *,
    entropy: bool,
    gradient: bool,
) -> RowSums:
    """Cross-entropy of rows, and their divergence from earlier predictions of the same tokens.

    Args:
        logits: ``[rows, vocabulary]``; becomes ∂loss/∂z where ``gradient`` is set.
        labels: ``[rows]``.
        past: of all rows of the pass; that of these becomes their present prediction.
        chunk: which of them these are.
        factors: of the parts.
        entropy: add up the entropy too.
        gradient: leave the gradient in ``logits``.
    """
    top = logits.amax(-1, keepdim=True)
    at_label = logits.gather(-1, labels[:, None])
    p = torch.softmax(logits, -1)
    normaliser = _normaliser(top, p)
    zero = top.new_zeros(())
    entropies = _entropy(p, logits, normaliser) if entropy else zero
    divergence, classes, for_all, for_kept = compare_with_past(logits, p, normaliser, past, chunk)
    sums = RowSums(
        (normaliser - at_label).sum(),
        zero,
        divergence,
        (at_label == top).sum(dtype=top.dtype),
        entropies,
    )
    if gradient:
        kept = factors.divergence * p.gather(-1, classes) * for_kept
        torch.mul(p, factors.task + factors.divergence * for_all, out=logits)
        logits.scatter_add_(-1, classes, kept)
        logits.scatter_add_(-1, labels[:, None], torch.full_like(at_label, -factors.task))
    return sums


def pair_rows(
    logits: Tensor,
    half: Tensor,
    labels: Tensor,
    factors: Factors,
    *,
    entropy: bool,
    gradient: bool,
    other_gradient: bool,
) -> RowSums:
    """Cross-entropy and divergence of rows of two passes.

    The gradients are left without their common factor, :func:`gradient_factor`.

    Args:
        logits: z₁ ``[rows, vocabulary]``; becomes ∂loss/∂z₁ where ``gradient`` is set.
        half: ½ (z₁ − z₂), same shape; becomes ∂loss/∂z₂ where ``other_gradient`` is set.
        labels: ``[rows]``.
        factors: of the parts; ``divergence`` is not 0.
        entropy: add up the entropy of the first pass too.
        gradient: leave the gradient of the first branch in ``logits``.
        other_gradient: leave that of the second branch in ``half`` too; ``kl`` only.
    """
    column = labels[:, None]
    other = torch.sub(logits, half, alpha=2)
    top, other_top = logits.amax(-1, keepdim=True), other.amax(-1, keepdim=True)
    at_label, other_at_label = logits.gather(-1, column), other.gather(-1, column)
    zero = top.new_zeros(())
    p1, p2 = torch.softmax(logits, -1), torch.softmax(other, -1)
    normaliser, other_normaliser = _normaliser(top, p1), _normaliser(other_top, p2)
    entropies = _entropy(p1, logits, normaliser) if entropy else zero

    half += 0.5 * (other_normaliser - normaliser)  # δ/2
    difference = torch.tanh(half).mul_(torch.add(p1, p2, out=other))  # D
    # D sums to 0; what it sums to instead is the rounding error of l₁ − l₂ in δ
    excess = difference.sum(-1, keepdim=True)
    mean = torch.linalg.vecdot(p1, half)[:, None]  # ½ Σ p₁ δ
    divergence = (
        torch.linalg.vecdot(difference, half).sum()
        if factors.kind == "kl"
        else (2 * mean - excess).sum()
    )
    sums = RowSums(
        (normaliser - at_label).sum(),
        (other_normaliser - other_at_label).sum() if factors.other_task else zero,
        divergence,
        (at_label == top).sum(dtype=top.dtype),
        entropies,
    )
    if gradient:
        pair = _Pair(p1, p2, half, difference, mean, excess)
        task = (factors.task / factors.divergence, at_label, column)
        if factors.kind == "js":
            _js_gradient(pair, logits, *task)
        else:
            other_task = factors.other_task / factors.divergence if other_gradient else None
            _kl_gradients(pair, logits, *task, other_task)
    return sums


class _Pair(NamedTuple):
    """Of a few rows of two passes; ``[rows, vocabulary]`` but for the last two, ``[rows, 1]``."""

    p1: Tensor
    p2: Tensor
    half: Tensor  # δ/2
    difference: Tensor  # D
    mean: Tensor  # ½ Σ p₁ δ
    excess: Tensor  # Σ D


def _js_gradient(
    pair: _Pair, logits: Tensor, task: float, at_label: Tensor, column: Tensor
) -> None:
    """Write ∂loss/∂z₁ into ``logits``; ``task`` is relative to the divergence's factor."""
    torch.mul(pair.p1, pair.half.add_(0.5 * task - pair.mean), out=logits)
    logits.scatter_add_(-1, column, torch.full_like(at_label, -0.5 * task))


def _kl_gradients(
    pair: _Pair,
    logits: Tensor,
    task: float,
    at_label: Tensor,
    column: Tensor,
    other_task: float | None,
) -> None:
    """Write ∂loss/∂z₁ into ``logits``; ∂loss/∂z₂ into ``half``, unless ``other_task`` is None."""
    p1, p2, half, difference, mean, excess = pair
    if other_task is not None:
        other_mean = torch.linalg.vecdot(p2, half)[:, None]
        p2 *= half - (other_mean + 0.5 * excess + other_task)
    p1 *= half.add_(task - mean - 0.5 * excess)
    torch.add(difference, p1, alpha=2, out=logits)
    logits.scatter_add_(-1, column, torch.full_like(at_label, -2 * task))
    if other_task is not None:
        torch.add(difference, p2, alpha=2, out=half).neg_()
        half.scatter_add_(-1, column, torch.full_like(at_label, -2 * other_task))


def gradient_factor(factors: Factors) -> float:
    """Return what the gradients of :func:`pair_rows` are to be multiplied by."""
    return factors.divergence * (0.5 if factors.kind == "kl" else 2.0)


def _normaliser(top: Tensor, probabilities: Tensor) -> Tensor:
    """Return l = logsumexp(z) ``[rows, 1]``; the largest probability is exp(max z − l)."""
    return top - probabilities.amax(-1, keepdim=True).log()


def _entropy(probabilities: Tensor, logits: Tensor, normaliser: Tensor) -> Tensor:
    """Return Σ over rows of l − Σ p z."""
    mean_logit: Tensor = torch.linalg.vecdot(probabilities, logits)
    return (normaliser.squeeze(-1) - mean_logit).sum()
