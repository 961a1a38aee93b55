"""NIST of the E2E scorer (Doddington 2002), over the whole corpus, n-grams up to five.

NIST = BP · Σ_n [Σ information(matched n-grams) / candidates_n],
information(w_1…w_n) = log2(count(w_1…w_{n−1}) / count(w_1…w_n)) over all references,
BP = exp(−β log²(min(1, c / r))),  β such that BP is ½ at c / r = ⅔,

with c the length of the outputs and r the sum of the instances' mean reference lengths.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

from hiddenkey.lab.scores.mteval import Ngram, Tokens, count_matches, count_ngrams

_LONGEST: Final = 5
_BETA: Final = math.log(2) / math.log(1.5) ** 2


def nist(references: Sequence[Sequence[Tokens]], outputs: Sequence[Tokens]) -> float:
    """NIST, 0 or more, of tokenized outputs."""
    counts = _reference_counts(references)
    total = 0.0
    for order in range(1, _LONGEST + 1):
        information = 0.0
        for texts, output in zip(references, outputs, strict=True):
            for ngram, number in count_matches(output, texts, order).items():
                information += number * math.log2(counts[ngram[:-1]] / counts[ngram])
        # an output shorter than the n-gram counts below zero here, as in the scorer
        candidates = sum(len(output) - order + 1 for output in outputs)
        total += information / candidates if candidates else 0.0
    return _brevity(references, outputs) * total


def _reference_counts(references: Sequence[Sequence[Tokens]]) -> Counter[Ngram]:
    """Counts of all n-grams; that of the empty one is the number of tokens."""
    counts: Counter[Ngram] = Counter()
    for texts in references:
        for text in texts:
            counts[()] += len(text)
            for order in range(1, _LONGEST + 1):
                counts.update(count_ngrams(text, order))
    return counts


def _brevity(references: Sequence[Sequence[Tokens]], outputs: Sequence[Tokens]) -> float:
    expected = sum(sum(map(len, texts)) / len(texts) for texts in references)
    ratio = min(1.0, sum(map(len, outputs)) / expected)
    return math.exp(-_BETA * math.log(ratio) ** 2)
