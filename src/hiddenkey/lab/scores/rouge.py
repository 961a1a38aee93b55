"""ROUGE-L of the COCO caption code (Lin 2004): the longest common subsequence of tokens.

For each instance, P is the largest share of the output and R the largest share of a reference that
a common subsequence covers, not always of the same reference;

ROUGE_L = (1 + β²) P R / (R + β² P),  β = 1.2,  averaged over the instances.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_BETA_SQUARED: Final = 1.2**2


def rouge_l(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> float:
    """Mean ROUGE-L from 0 to 1; texts are tokens with one space between them."""
    scores = [_score(texts, output) for texts, output in zip(references, outputs, strict=True)]
    return sum(scores) / len(scores)


def _score(references: Sequence[str], output: str) -> float:
    tokens = output.split(" ")
    texts = [reference.split(" ") for reference in references]
    common = [longest_common_subsequence(text, tokens) for text in texts]
    precision = max(common) / len(tokens)
    recall = max(length / len(text) for length, text in zip(common, texts, strict=True))
    if not precision:
        return 0.0
    return (1 + _BETA_SQUARED) * precision * recall / (recall + _BETA_SQUARED * precision)


def longest_common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest run of tokens that both have in this order, with gaps."""
    best = [0] * (len(other) + 1)
    for token in one:
        before = 0  # the entry to the upper left in the usual table
        for column, candidate in enumerate(other, start=1):
            above = best[column]
            best[column] = before + 1 if token == candidate else max(above, best[column - 1])
            before = above
    return best[-1]
