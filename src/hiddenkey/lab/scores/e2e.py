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
from hiddenkey.lab.scores.groups import Scores, select
from hiddenkey.lab.scores.java import MissingToolError, Tools, find_tools
from hiddenkey.lab.scores.meteor import meteor
from hiddenkey.lab.scores.nist import nist

METRICS: Final = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")


def score(
    references: Sequence[Sequence[str]], outputs: Sequence[str], groups: Sequence[Sequence[int]]
) -> list[Scores]:
    """Score each group of instances, given by their indices; see ``score_groups``."""
    theirs = [[mteval.tokenize(text) for text in texts] for texts in references]
    ours = [mteval.tokenize(output) for output in outputs]
    found = [{"BLEU": bleu(*parts), "NIST": nist(*parts)} for parts in select(theirs, ours, groups)]
    try:
        tools = find_tools()
    except MissingToolError as reason:
        skipped = {name: str(reason) for name in METRICS if name not in ("BLEU", "NIST")}
        return [Scores(values, skipped) for values in found]
    captions = _caption_scores(references, outputs, groups, tools)
    return [Scores(values | more) for values, more in zip(found, captions, strict=True)]


def _caption_scores(
    references: Sequence[Sequence[str]],
    outputs: Sequence[str],
    groups: Sequence[Sequence[int]],
    tools: Tools,
) -> list[dict[str, float]]:
    flat = iter(ptb.tokenize([text for texts in references for text in texts], tools))
    theirs = [list(islice(flat, len(texts))) for texts in references]
    ours = ptb.tokenize(outputs, tools)
    return [
        {"METEOR": value, "ROUGE_L": rouge_l(*parts), "CIDEr": cider(*parts)}
        for value, parts in zip(
            meteor(theirs, ours, groups, tools), select(theirs, ours, groups), strict=True
        )
    ]
