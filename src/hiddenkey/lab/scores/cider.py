"""CIDEr of the COCO caption code (Vedantam et al. 2015), which is CIDEr-D without stemming.

An n-gram weighs tf · (log N − log df): how often it is in the text, N instances, df of which have
it in a reference. For each order n up to four and each reference, the score is the clipped cosine

Σ min(output, reference) · reference / (‖output‖ ‖reference‖) · exp(−Δ² / 2σ²),  σ = 6,

with Δ the difference of the lengths, counted in bigrams. CIDEr is ten times the mean over orders,
references and instances. With a single instance every weight, and the score, is 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hiddenkey.lab.scores.mteval import Ngram, count_ngrams

_LONGEST: Final = 4
_SIGMA: Final = 6.0
_SCALE: Final = 10.0


@dataclass(frozen=True)
class _Vector:
    """The weights of a text's n-grams by order, their norms, and the length in bigrams."""

    weights: tuple[Mapping[Ngram, float], ...]
    norms: tuple[float, ...]
    length: int


def cider(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> float:
    """Mean CIDEr, 0 or more; texts are tokens with white space between them."""
    frequency: Counter[Ngram] = Counter()
    for texts in references:
        frequency.update({ngram for text in texts for ngram in _count(text)})
    instances = len(references)
    total = 0.0
    for texts, output in zip(references, outputs, strict=True):
        ours = _vector(output, frequency, instances)
        compared = [_similarity(ours, _vector(text, frequency, instances)) for text in texts]
        total += sum(compared) / len(compared)
    return _SCALE * total / instances


def _count(text: str) -> Counter[Ngram]:
    tokens = text.split()
    counts: Counter[Ngram] = Counter()
    for order in range(1, _LONGEST + 1):
        counts.update(count_ngrams(tokens, order))
    return counts


def _vector(text: str, frequency: Mapping[Ngram, int], instances: int) -> _Vector:
    weights: tuple[dict[Ngram, float], ...] = tuple({} for _ in range(_LONGEST))
    counts = _count(text)
    for ngram, number in counts.items():
        rarity = math.log(instances) - math.log(max(1, frequency.get(ngram, 0)))
        weights[len(ngram) - 1][ngram] = number * rarity
    norms = tuple(math.sqrt(sum(value**2 for value in order.values())) for order in weights)
    return _Vector(
        weights, norms, sum(number for ngram, number in counts.items() if len(ngram) == 2)
    )


def _similarity(output: _Vector, reference: _Vector) -> float:
    """Mean over the orders of the clipped, length-penalised cosine."""
    total = 0.0
    for order in range(_LONGEST):
        ours, theirs = output.weights[order], reference.weights[order]
        product = sum(
            min(value, theirs[ngram]) * theirs[ngram]
            for ngram, value in ours.items()
            if ngram in theirs
        )
        norm = output.norms[order] * reference.norms[order]
        total += product / norm if norm else 0.0
    penalty = math.exp(-((output.length - reference.length) ** 2) / (2 * _SIGMA**2))
    return penalty * total / _LONGEST
