"""How noisy and how biased a gradient is that depends on random masks, from streamed sums.

For one batch at fixed weights, let g be the gradient under a random mask, g₀ the gradient without
noise, and ḡ the mean over n masks. Four numbers are estimated, all of them without bias:

- noise, tr Cov g: S = Σᵢ ‖gᵢ − ḡ‖² / (n − 1);
- signal, ‖E g‖²: ‖ḡ‖² − S / n, since ‖ḡ‖² alone is larger than ‖E g‖² by tr Cov g / n on average;
- overlap, ⟨E g, g₀⟩: ⟨ḡ, g₀⟩;
- plain, ‖g₀‖², which is known.

They add up over matrices and over batches, so what is pooled is a ratio of sums, not a mean of
ratios. No gradient is kept: the masks fall into groups, and each group has a sum of its gradients
and of their squared norms. Intervals are Student's, from the delete-a-group jackknife (Quenouille
1956, Tukey 1958) over those groups; they tell how much the masks leave open, for these batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradient_noise.options import GROUPS
from hiddenkey.lab.evidence.inference import LEVEL, critical


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; ``None`` where it is undefined, such as 0 / 0."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Moments:
    """What the masks do to a gradient; ``[1 + GROUPS]``: of all masks, then without each group.

    Attributes:
        signal: ‖E g‖².
        noise: tr Cov g.
        overlap: ⟨E g, g₀⟩.
        plain: ‖g₀‖².
    """

    signal: Tensor
    noise: Tensor
    overlap: Tensor
    plain: Tensor

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio ‖E g‖² / tr Cov g."""
        return self.signal / self.noise

    @property
    def cosine(self) -> Tensor:
        """Cosine of the angle between E g and g₀; may pass 1 by its error of estimation."""
        return self.overlap / (self.signal * self.plain).sqrt()

    @property
    def distance(self) -> Tensor:
        """‖E g − g₀‖ / ‖g₀‖; 0 where the estimate of its square is negative."""
        squared = self.signal - 2 * self.overlap + self.plain
        return (squared.clamp_min(0) / self.plain).sqrt()


class GradientStream:
    """Sums over the masks of one batch, for each matrix.

    Gradients are added in float64 on the CPU: the variance is a difference of large sums.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}
        self._counts = torch.zeros(GROUPS, dtype=torch.float64)

    def add(self, group: int, gradients: Mapping[str, Tensor]) -> None:
        """Add the gradients under one mask.

        Args:
            group: the group that the mask falls into, from 0.
            gradients: by the matrix's name; the same names each time.
        """
        self._counts[group] += 1
        for name, gradient in gradients.items():
            exact = gradient.cpu().double().flatten()
            if name not in self._sums:
                self._sums[name] = exact.new_zeros(GROUPS, exact.numel())
                self._squares[name] = exact.new_zeros(GROUPS)
            self._sums[name][group] += exact
            self._squares[name][group] += exact.dot(exact)

    def moments(self, plain: Mapping[str, Tensor]) -> dict[str, Moments]:
        """Return the moments of each matrix's gradient.

        Args:
            plain: g₀ by the matrix's name.
        """
        counts = _all_and_without(self._counts)
        found = {}
        for name, sums in self._sums.items():
            means = _all_and_without(sums) / counts.unsqueeze(-1)
            squared = means.square().sum(-1)
            noise = (_all_and_without(self._squares[name]) - counts * squared) / (counts - 1)
            without = plain[name].cpu().double().flatten()
            found[name] = Moments(
                signal=squared - noise / counts,
                noise=noise,
                overlap=means @ without,
                plain=without.dot(without).expand_as(noise),
            )
        return found


def pool(parts: Iterable[Moments]) -> Moments:
    """Add the moments of several matrices, or of several batches."""
    columns = zip(*((m.signal, m.noise, m.overlap, m.plain) for m in parts), strict=True)
    return Moments(*(torch.stack(column).sum(0) for column in columns))


def jackknife(replicates: Tensor) -> Estimate:
    """Return an estimate and its interval.

    Args:
        replicates: ``[1 + groups]``: the estimate from all, then without each group.
    """
    whole, *without = replicates.tolist()
    if not all(map(math.isfinite, (whole, *without))):
        return Estimate(whole if math.isfinite(whole) else None, None, None)
    count = len(without)
    middle = math.fsum(without) / count
    squares = math.fsum((value - middle) ** 2 for value in without)
    reach = critical(count - 1, LEVEL / 2) * math.sqrt(squares * (count - 1) / count)
    return Estimate(whole, float(whole - reach), float(whole + reach))


def variance_between(vectors: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Return the trace of the covariance of gradients, such as those of several batches.

    Args:
        vectors: one gradient for each, by the matrix's name.

    Returns:
        The trace by the matrix's name; nothing for a single vector.
    """
    if len(vectors) < 2:
        return {}
    return {
        name: torch.stack([vector[name].cpu().double() for vector in vectors]).var(0).sum().item()
        for name in vectors[0]
    }


def _all_and_without(groups: Tensor) -> Tensor:
    """``[groups, ...]`` → ``[1 + groups, ...]``: the sum of all, then of all but each one."""
    total = groups.sum(0, keepdim=True)
    return torch.cat([total, total - groups])
