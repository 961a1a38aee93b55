"""The E2E challenge's scorer: BLEU, NIST, METEOR, ROUGE-L and CIDEr (Dušek et al. 2018).

BLEU and NIST have a tokenization of their own (``mteval``). The other three are those of the COCO
caption code and see what the Penn Treebank tokenizer makes of the texts (``ptb``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final

from hiddenkey.lab.scores import mteval, ptb
from hiddenkey.lab.scores.bleu import bleu
from hiddenkey.lab.scores.captions import cider, rouge_l
from hiddenkey.lab.scores.groups import select
from hiddenkey.lab.scores.java import Tools
from hiddenkey.lab.scores.meteor import meteor
from hiddenkey.lab.scores.nist import nist

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
    found = [{"BLEU": bleu(*parts), "NIST": nist(*parts)} for parts in select(theirs, ours, groups)]
    if tools is None:
        return found
    every = [text for texts in (*references, outputs) for text in texts]
    flat = iter(ptb.tokenize(every, tools))
    captions = [list(islice(flat, len(texts))) for texts in references]
    written = list(flat)
    meteors = meteor(captions, written, groups, tools)
    parts = zip(found, meteors, select(captions, written, groups), strict=True)
    return [
        values | {"METEOR": value, "ROUGE_L": rouge_l(*group), "CIDEr": cider(*group)}
        for values, value, group in parts
    ]
