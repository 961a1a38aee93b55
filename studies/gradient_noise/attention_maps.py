"""What two training passes with equal masks, DropKey's and DropAttention's, do to their logits.

With w = softmax(g) the attention without noise, w' that of the kept keys, and a = ∂L/∂w', the
gradients to the logits g are

    DropKey:        ∂L/∂g_j = w'_j (a_j − ⟨w', a⟩)
    DropAttention:  ∂L/∂g_j = w'_j (a_j − ⟨w', a⟩) + ⟨w', a⟩ (w'_j − w_j)

which follows from equations 7 to 9 of arXiv 2403.00812. What DropAttention adds sums to zero over
the keys and lies on dropped keys too, where w'_j = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of k that are told."""

_SOFTMAX: Final = (torch.softmax, Tensor.softmax, F.softmax)
_MASKED: Final = -5_000.0  # far below any logit: −∞, or a number that a mask added
_BINS: Final = 1_000


@dataclass
class SeenLogits:
    """What entered one softmax, ``[batch, heads, queries, keys]``, and its gradient afterwards."""

    logits: Tensor
    gradient: Tensor | None = None


class LogitsSpy(TorchFunctionMode):
    """Keeps the logits of every attention map that is computed while it is on, in their order.

    The reference path of attention (:mod:`hiddenkey.attention.reference`) takes a softmax over the
    keys; fused kernels take none that could be seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[SeenLogits] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _SOFTMAX:
            logits = args[0] if args else kwargs["input"]
            if logits.dim() == 4 and logits.requires_grad:
                self._keep(logits)
        return func(*args, **kwargs)

    def _keep(self, logits: Tensor) -> None:
        entry = SeenLogits(logits.detach())
        self.seen.append(entry)

        def store(gradient: Tensor) -> None:
            entry.gradient = gradient.detach()

        logits.register_hook(store)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Share:
    """Part of the gradient to the logits that lies on dropped keys, in [0, 1].

    Attributes:
        absolute: of the sum of absolute values.
        squared: of the sum of squares.
    """

    absolute: float | None
    squared: float | None


@dataclass(frozen=True)
class MapFindings:
    """What attention maps showed.

    Attributes:
        dropped: share of the visible entries that were dropped.
        mass: mean share of a query's attention, without noise, on the dropped keys.
        shares: gradient on dropped keys, by method.
        k: quantiles of equation 10's k over all kept keys of queries that lost one.
        k_attended: the same with each key weighing as much as the attention w' that it gets.
    """

    dropped: float | None
    mass: float | None
    shares: dict[str, Share]
    k: dict[str, float] | None
    k_attended: dict[str, float] | None


@dataclass
class MapStatistics:
    """Sums over attention maps, from pairs of passes with equal masks."""

    _fallen: float = 0.0
    _visible: float = 0.0
    _mass: float = 0.0
    _queries: float = 0.0
    _gradients: dict[str, Tensor] = field(default_factory=dict)
    _k: Tensor = field(default_factory=lambda: torch.zeros(2, _BINS, dtype=torch.float64))

    def add(self, dropkey: Sequence[SeenLogits], dropattention: Sequence[SeenLogits]) -> None:
        """Add what a DropKey pass and a DropAttention pass with the same seed showed.

        Raises:
            ValueError: if the two did not take the same number of softmaxes.
        """
        for without, whole in zip(dropkey, dropattention, strict=True):
            self._add_map(without, whole)

    def _add_map(self, without: SeenLogits, whole: SeenLogits) -> None:
        left, all_logits = without.logits.cpu().double(), whole.logits.cpu().double()
        visible = all_logits > _MASKED
        fallen = visible & ~(left > _MASKED)
        for method, seen in (("dropkey", without), ("dropattention", whole)):
            self._add_gradient(method, seen.gradient, fallen)
        real = _real_queries(visible)
        weights, kept_weights = all_logits.softmax(-1), left.softmax(-1)
        self._fallen += (fallen & real).sum().item()
        self._visible += (visible & real).sum().item()
        self._mass += (weights * (fallen & real)).sum().item()
        self._queries += real.expand_as(visible[..., :1]).sum().item()
        chosen = visible & ~fallen & real & fallen.any(-1, keepdim=True)
        k = gradient_ratio(weights, kept_weights)[chosen]
        places = (k * _BINS).long().clamp(0, _BINS - 1)
        self._k[0] += torch.bincount(places, minlength=_BINS)
        self._k[1] += torch.bincount(places, kept_weights[chosen], minlength=_BINS)

    def _add_gradient(self, method: str, gradient: Tensor | None, fallen: Tensor) -> None:
        if gradient is None:
            return
        size = gradient.cpu().double().abs()
        parts = [(size**power, (size**power)[fallen]) for power in (1, 2)]
        sums = torch.stack([part.sum() for pair in parts for part in pair])
        self._gradients[method] = self._gradients.get(method, torch.zeros_like(sums)) + sums

    def findings(self) -> MapFindings:
        """Return what the maps so far showed."""
        shares = {}
        for method, sums in self._gradients.items():
            whole, on_fallen, whole_squared, on_fallen_squared = sums.tolist()
            absolute = _ratio(on_fallen, whole)
            shares[method] = Share(absolute, _ratio(on_fallen_squared, whole_squared))
        return MapFindings(
            dropped=_ratio(self._fallen, self._visible),
            mass=_ratio(self._mass, self._queries),
            shares=shares,
            k=_quantiles(self._k[0]),
            k_attended=_quantiles(self._k[1]),
        )


def gradient_ratio(weights: Tensor, kept_weights: Tensor) -> Tensor:
    """Return k of equation 10 for every key: DropKey's ∂w'_u/∂g_u over DropAttention's.

    k = (1 − w'_u) / (1 − w_u), from 0, where u is the only key left, to 1, where
    nothing was dropped.

    Args:
        weights: w = softmax(g), ``[..., keys]``.
        kept_weights: w', the same among the kept keys.

    Returns:
        ``[..., keys]``; of no meaning for dropped keys, and 0 where w_u is 1 to rounding.
    """
    rest = 1 - weights
    return torch.where(rest > 0, (1 - kept_weights) / rest, 0.0)


def _real_queries(visible: Tensor) -> Tensor:
    """Which queries are no padding, ``[batch, heads, queries, 1]``; padding is seen by no query."""
    if visible.shape[-1] != visible.shape[-2]:
        return torch.ones_like(visible[..., :1])
    return visible.any(-2).unsqueeze(-1)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _quantiles(histogram: Tensor) -> dict[str, float] | None:
    """Quantiles of what lies in equal bins on [0, 1], exact to the width of a bin."""
    total = histogram.sum()
    if not total:
        return None
    bins = torch.searchsorted(
        histogram.cumsum(0), torch.tensor(QUANTILES, dtype=torch.float64) * total
    )
    return {f"{q:g}": (b + 0.5) / _BINS for q, b in zip(QUANTILES, bins.tolist(), strict=True)}
