"""ROUGE-L and CIDEr of the COCO caption code, by its authors' package pycocoevalcap.

Texts are tokens with one space between them. ROUGE-L (Lin 2004) is from 0 to 1. CIDEr (Vedantam et
al. 2015), 0 or more, is CIDEr-D without stemming; with a single instance no n-gram is rare, and it
is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def rouge_l(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> float:
    """Mean ROUGE-L; precision and recall may come from different references of an instance."""
    from pycocoevalcap.rouge.rouge import Rouge

    return _mean(Rouge(), references, outputs)


def cider(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> float:
    """Mean CIDEr."""
    from pycocoevalcap.cider.cider import Cider

    if not any(text.split() for texts in references for text in texts):
        return 0.0  # the package fails where no reference has a word
    return _mean(Cider(), references, outputs)


def _mean(metric: Any, references: Sequence[Sequence[str]], outputs: Sequence[str]) -> float:
    theirs = {index: list(texts) for index, texts in enumerate(references)}
    ours = {index: [output] for index, output in enumerate(outputs)}
    return float(metric.compute_score(theirs, ours)[0])
