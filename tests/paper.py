"""The equations of arXiv 2403.00812 once more, for one query, as loops over Python floats.

Written from the paper's text, and sharing no code with the library: tests hold the library against
this file. ``keep[j]`` is False for a masked key m. ``u`` is an unmasked key.
"""

import math
from collections.abc import Sequence

Vector = Sequence[float]


def exponentials(logits: Vector) -> list[float]:
    return [math.exp(g) for g in logits]


def softmax(logits: Vector) -> list[float]:
    e = exponentials(logits)
    return [x / sum(e) for x in e]


def dropkey(logits: Vector, keep: Sequence[bool]) -> list[float]:
    """g'_m = −∞, then softmax."""
    return softmax([g if k else -math.inf for g, k in zip(logits, keep, strict=True)])


def dropattention(logits: Vector, keep: Sequence[bool], rate: float, rescaling: str) -> list[float]:
    """w'_j = m_j w_j, divided by Σ m_i w_i, by 1 − p or by nothing."""
    kept = [w if k else 0.0 for w, k in zip(softmax(logits), keep, strict=True)]
    divisor = {"normalised": sum(kept), "inverse": 1 - rate, "none": 1.0}[rescaling]
    return [w / divisor for w in kept]


def dropkey_gradient(logits: Vector, keep: Sequence[bool], u: int, j: int) -> float:
    """Return ∂w'_u/∂g_j: equation 7 for j = u, and 0 for a masked j."""
    e = exponentials(logits)
    if not (keep[u] and keep[j]):
        return 0.0
    kept = sum(x for x, k in zip(e, keep, strict=True) if k)
    if j == u:
        return e[u] * (kept - e[u]) / kept**2
    return -e[u] * e[j] / kept**2


def dropattention_gradient(logits: Vector, keep: Sequence[bool], u: int, j: int) -> float:
    """Return ∂w'_u/∂g_j with NoGrad: equation 8 for a masked j, equation 9 for j = u."""
    e = exponentials(logits)
    if not keep[u]:
        return 0.0
    everything = sum(e)
    kept = sum(x for x, k in zip(e, keep, strict=True) if k)
    if j == u:
        return e[u] * sum(x for i, x in enumerate(e) if i != u) / (everything * kept)
    return -e[u] * e[j] / (everything * kept)


def softmax_gradient(logits: Vector, u: int, j: int) -> float:
    w = softmax(logits)
    return w[u] * ((u == j) - w[j])


def ratio(logits: Vector, keep: Sequence[bool], u: int) -> float:
    """Return k of equation 10: DropKey's ∂w'_u/∂g_u over DropAttention's."""
    e = exponentials(logits)
    kept = sum(x for x, k in zip(e, keep, strict=True) if k)
    return (1 - e[u] / kept) / (1 - e[u] / sum(e))


def divergence(p: Vector, q: Vector) -> float:
    """D_KL(P‖Q)."""
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def bidirectional(p: Vector, q: Vector) -> float:
    """L_KL = ½ (D_KL(P‖Q) + D_KL(Q‖P))."""
    return 0.5 * (divergence(p, q) + divergence(q, p))


def bidirectional_gradient(p: Vector, q: Vector) -> list[float]:
    """∂L_KL/∂z, P = softmax(z), Q constant: ½ [p (δ − D_KL(P‖Q)) + p − q], δ = log p − log q."""
    k = divergence(p, q)
    return [0.5 * (a * (math.log(a / b) - k) + a - b) for a, b in zip(p, q, strict=True)]
