"""The E2E challenge's scorer: BLEU, NIST, METEOR, ROUGE-L and CIDEr (Dušek et al. 2018).

BLEU and NIST have a tokenization of their own (``mteval``). The other three are those of the COCO
caption code, which the package pycocoevalcap holds, and see the tokens of the Penn Treebank.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from hiddenkey.lab.scores import mteval
from hiddenkey.lab.scores.groups import select
from hiddenkey.lab.scores.java import Tools, meteor, treebank_tokens

METRICS: Final = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")


def score(
    references: Sequence[Sequence[str]],
    outputs: Sequence[str],
    groups: Sequence[Sequence[int]],
    tools: Tools | None,
) -> list[dict[str, float]]:
    """Score each group of instances, given by their indices; without Java, BLEU and NIST alone."""
    theirs = [[mteval.tokenize(text) for text in texts] for texts in references]
    ours = [mteval.tokenize(output) for output in outputs]
    found = [
        {"BLEU": mteval.bleu(*parts), "NIST": mteval.nist(*parts)}
        for parts in select(theirs, ours, groups)
    ]
    if tools is None:
        return found
    every = [text for texts in (*references, outputs) for text in texts]
    flat = iter(treebank_tokens(every, tools))
    captions = [list(islice(flat, len(texts))) for texts in references]
    written = list(flat)
    meteors = meteor(captions, written, groups, tools)
    parts = zip(found, meteors, select(captions, written, groups), strict=True)
    return [
        values | {"METEOR": value, "ROUGE_L": rouge_l(*group), "CIDEr": cider(*group)}
        for values, value, group in parts
    ]


def rouge_l(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> float:
    """Mean ROUGE-L (Lin 2004) from 0 to 1; texts are tokens with one space between them."""
    from pycocoevalcap.rouge.rouge import Rouge

    return _mean(Rouge(), references, outputs)


def cider(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> float:
    """Mean CIDEr (Vedantam et al. 2015), 0 or more: CIDEr-D without stemming.

    With a single instance no n-gram is rare, and it is 0.
    """
    from pycocoevalcap.cider.cider import Cider

    if not any(text.split() for texts in references for text in texts):
        return 0.0  # the package fails where no reference has a word
    return _mean(Cider(), references, outputs)


def _mean(metric: Any, references: Sequence[Sequence[str]], outputs: Sequence[str]) -> float:
    theirs = {index: list(texts) for index, texts in enumerate(references)}
    ours = {index: [output] for index, output in enumerate(outputs)}
    return float(metric.compute_score(theirs, ours)[0])
