"""BLEU of the E2E scorer (Papineni et al. 2002), over the whole corpus, n-grams up to four.

BLEU = BP · exp(¼ Σ_n log(matches_n / candidates_n)),  BP = min(1, exp(1 − r / c)),

with c the length of the outputs and r the sum of the reference lengths that are closest to the
output's, the shorter one of two equally close.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from hiddenkey.lab.scores.mteval import Tokens, count_matches

_LONGEST: Final = 4
# what the scorer takes for no matches and no candidates, so that the logarithm exists
_NO_MATCHES: Final = 1e-15
_NO_CANDIDATES: Final = 1e-9


def bleu(references: Sequence[Sequence[Tokens]], outputs: Sequence[Tokens]) -> float:
    """BLEU from 0 to 1 of tokenized outputs."""
    lengths = [len(output) for output in outputs]
    closest = [
        min((len(text) for text in texts), key=lambda size: (abs(size - length), size))
        for texts, length in zip(references, lengths, strict=True)
    ]
    logarithms = 0.0
    for order in range(1, _LONGEST + 1):
        matches = sum(
            count_matches(output, texts, order).total()
            for texts, output in zip(references, outputs, strict=True)
        )
        # an output shorter than the n-gram counts below zero here, as in the scorer
        candidates = sum(length - order + 1 for length in lengths)
        logarithms += math.log(max(matches, _NO_MATCHES) / max(candidates, _NO_CANDIDATES))
    brevity = min(1.0, math.exp(1 - sum(closest) / sum(lengths)))
    return brevity * math.exp(logarithms / _LONGEST)
