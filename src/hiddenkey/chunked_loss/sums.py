"""What a language-model loss is made of, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

IGNORED_LABEL = -100
CHUNKED_KINDS = ("kl", "js", "label-smoothing")
"""Losses that need no logits in full."""


@dataclass(frozen=True)
class Factors:
    """How the parts of a language-model loss are added up.

    Attributes:
        divergence: of the divergence between the two passes, summed over the rows compared.
        task: of the cross-entropy of the trained pass, summed over its rows.
        other_task: of the second forward pass's cross-entropy, where gradient flows through both.
        kind: the divergence, ``kl`` (½ (D_KL(P₁‖P₂) + D_KL(P₂‖P₁))) or ``js`` (D_KL(P₁‖P₂)); or
            ``label-smoothing``, CE(u, P) − CE(y, P) of each row by itself.
    """

    divergence: float = 1.0
    task: float = 1.0
    other_task: float = 0.0
    kind: str = "kl"


EVEN = Factors()


class Sums(NamedTuple):
    """Sums over labelled rows, scalars in float32 or wider.

    Attributes:
        loss: factors · parts; the only one that carries gradient.
        task: Σ cross-entropy of the trained pass, in nats.
        other_task: Σ cross-entropy of the second forward pass; 0 where its factor is 0.
        divergence: Σ divergence of the rows compared, in nats; 0 where its factor is 0.
        correct: rows of the trained pass whose label has the highest logit.
        entropy: Σ entropy of the trained pass, in nats; 0 unless asked for.
        rows: how many there are.
    """

    loss: Tensor
    task: Tensor
    other_task: Tensor
    divergence: Tensor
    correct: Tensor
    entropy: Tensor
    rows: int
