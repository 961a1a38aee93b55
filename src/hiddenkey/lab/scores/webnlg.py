"""The scores of the WebNLG challenge 2017 (Gardent et al. 2017): BLEU, METEOR and TER.

The challenge's script maps letters to ASCII and to lower case, and makes every character that is
neither letter, digit nor underscore a token; BLEU (multi-bleu.perl, unsmoothed), METEOR 1.5 and TER
(tercom) see those tokens. sacrebleu's BLEU and TER are the same arithmetic.

The challenge's script stops at an instance's third reference and the LoRA paper's at its sixth;
here all count (2 % of the entries have more than three). A missing reference is no empty one, as
it is in files padded with empty lines.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

from hiddenkey.lab.scores.e2e import select
from hiddenkey.lab.scores.java import Tools, meteor

METRICS: Final = ("BLEU", "METEOR", "TER")

# letters and marks without a decomposition in Unicode
_TO_ASCII: Final = str.maketrans(
    {
        **dict(zip("øØłŁđĐðÐəƏ\u0131", "oOlLdDdDeEi", strict=True)),  # the last: i without a dot
        "ß": "ss",
        "æ": "ae",
        "Æ": "AE",
        "œ": "oe",
        "Œ": "OE",
        "þ": "th",
        "Þ": "Th",
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033", '"'),
    }
)
_NOT_A_WORD: Final = re.compile(r"(\W)")


def tokenize(text: str) -> str:
    """Return the text's tokens in lower-case ASCII, as far as it has one, with single spaces."""
    decomposed = unicodedata.normalize("NFKD", text)
    letters = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    words = _NOT_A_WORD.sub(r" \1 ", letters.translate(_TO_ASCII).lower())
    return " ".join(words.split())


def score(
    references: Sequence[Sequence[str]],
    outputs: Sequence[str],
    groups: Sequence[Sequence[int]],
    tools: Tools | None,
) -> list[dict[str, float]]:
    """Score each group of instances, given by their indices; without Java there is no METEOR."""
    theirs = [[tokenize(text) for text in texts] for texts in references]
    ours = [tokenize(output) for output in outputs]
    edits = _count_edits(theirs, ours)
    found = [
        {"BLEU": _bleu(*parts), "TER": _ter([edits[index] for index in group])}
        for parts, group in zip(select(theirs, ours, groups), groups, strict=True)
    ]
    if tools is None:
        return found
    meteors = meteor(theirs, ours, groups, tools)
    return [values | {"METEOR": value} for values, value in zip(found, meteors, strict=True)]


def _bleu(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> float:
    from sacrebleu.metrics.bleu import BLEU

    # one column for each rank of reference; None where an instance has fewer
    columns = list(zip_longest(*references))
    scorer = BLEU(tokenize="none", smooth_method="none", force=True)
    value: float = scorer.corpus_score(outputs, columns).score
    return value


def _count_edits(
    references: Sequence[Sequence[str]], outputs: Sequence[str]
) -> list[tuple[float, float]]:
    """The fewest edits to any reference, and the mean length of the references."""
    from sacrebleu.metrics.ter import TER

    scorer = TER()
    found = [
        scorer.sentence_score(output, texts)
        for texts, output in zip(references, outputs, strict=True)
    ]
    return [(segment.num_edits, segment.ref_length) for segment in found]


def _ter(edits: Sequence[tuple[float, float]]) -> float:
    """Edits for each token of the references; 1 if these are empty and the outputs are not."""
    total, length = sum(number for number, _ in edits), sum(length for _, length in edits)
    return total / length if length else float(total > 0)
