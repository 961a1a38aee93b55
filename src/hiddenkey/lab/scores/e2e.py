"""The E2E challenge's scorer: BLEU, NIST, METEOR, ROUGE-L and CIDEr (Dušek et al. 2018).

BLEU and NIST see the tokens of the scorer's Python part (``pymteval``), which follows NIST's
mteval-v13a. Entities become characters, punctuation is split off, but a full stop or comma stays
inside a number and a hyphen stays inside a word. Nothing is case-sensitive. An empty text has one
token, the empty string. An output shorter than an n-gram counts below zero among the candidates.

The other three are those of the COCO caption code, which the package pycocoevalcap holds, and see
the tokens of the Penn Treebank.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final, TypeVar

from hiddenkey.lab.scores.java import Tools, meteor, treebank_tokens

METRICS: Final = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")
Tokens = Sequence[str]
Ngram = tuple[str, ...]
Reference = TypeVar("Reference")
Output = TypeVar("Output")

_REPLACED: Final = (
    ("<skipped>", ""),
    ("-\n", ""),
    ("\n", " "),
    ("&quot;", '"'),
    ("&amp;", "&"),
    ("&lt;", "<"),
    ("&gt;", ">"),
)
_SPLIT: Final = (
    # every ASCII punctuation mark but the apostrophe, comma, hyphen and full stop
    (re.compile(r"([!-&(-+/:-@\[-`{-~])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
    (re.compile(r"\s+"), " "),
)

_LONGEST_OF_BLEU: Final = 4
# what the scorer takes for no matches and no candidates, so that the logarithm exists
_NO_MATCHES: Final = 1e-15
_NO_CANDIDATES: Final = 1e-9
_LONGEST_OF_NIST: Final = 5
_BETA: Final = math.log(2) / math.log(1.5) ** 2


def score(
    references: Sequence[Sequence[str]],
    outputs: Sequence[str],
    groups: Sequence[Sequence[int]],
    tools: Tools | None,
) -> list[dict[str, float]]:
    """Score each group of instances, given by their indices; without Java, BLEU and NIST alone."""
    theirs = [[tokenize(text) for text in texts] for texts in references]
    ours = [tokenize(output) for output in outputs]
    found = [{"BLEU": bleu(*parts), "NIST": nist(*parts)} for parts in select(theirs, ours, groups)]
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


def select(
    references: Sequence[Reference], outputs: Sequence[Output], groups: Sequence[Sequence[int]]
) -> list[tuple[list[Reference], list[Output]]]:
    """Return the references and the outputs of each group, which is given by its indices."""
    return [
        ([references[index] for index in group], [outputs[index] for index in group])
        for group in groups
    ]


def tokenize(text: str) -> list[str]:
    """Split a text into tokens in lower case."""
    for old, new in _REPLACED:
        text = text.replace(old, new)
    text = f" {text} "
    for pattern, replacement in _SPLIT:
        text = pattern.sub(replacement, text)
    return [token.lower() for token in text.strip().split(" ")]


def bleu(references: Sequence[Sequence[Tokens]], outputs: Sequence[Tokens]) -> float:
    """BLEU (Papineni et al. 2002) from 0 to 1 of tokenized outputs, n-grams up to four.

    BLEU = BP · exp(¼ Σ_n log(matches_n / candidates_n)),  BP = min(1, exp(1 − r / c)),

    with c the length of the outputs and r the sum of the reference lengths that are closest to the
    output's, the shorter one of two equally close.
    """
    lengths = [len(output) for output in outputs]
    closest = [
        min((len(text) for text in texts), key=lambda size: (abs(size - length), size))
        for texts, length in zip(references, lengths, strict=True)
    ]
    logarithms = 0.0
    for order in range(1, _LONGEST_OF_BLEU + 1):
        matches = sum(
            count_matches(output, texts, order).total()
            for texts, output in zip(references, outputs, strict=True)
        )
        candidates = sum(length - order + 1 for length in lengths)
        logarithms += math.log(max(matches, _NO_MATCHES) / max(candidates, _NO_CANDIDATES))
    brevity = min(1.0, math.exp(1 - sum(closest) / sum(lengths)))
    return brevity * math.exp(logarithms / _LONGEST_OF_BLEU)


def nist(references: Sequence[Sequence[Tokens]], outputs: Sequence[Tokens]) -> float:
    """NIST (Doddington 2002), 0 or more, of tokenized outputs, n-grams up to five.

    NIST = BP · Σ_n [Σ information(matched n-grams) / candidates_n],
    information(w_1…w_n) = log2(count(w_1…w_{n−1}) / count(w_1…w_n)) over all references,
    BP = exp(−β log²(min(1, c / r))),  β such that BP is ½ at c / r = ⅔,

    with c the length of the outputs and r the sum of the instances' mean reference lengths.
    """
    counts = _reference_counts(references)
    total = 0.0
    for order in range(1, _LONGEST_OF_NIST + 1):
        information = 0.0
        for texts, output in zip(references, outputs, strict=True):
            for ngram, number in count_matches(output, texts, order).items():
                information += number * math.log2(counts[ngram[:-1]] / counts[ngram])
        candidates = sum(len(output) - order + 1 for output in outputs)
        total += information / candidates if candidates else 0.0
    return _brevity(references, outputs) * total


def count_ngrams(tokens: Tokens, order: int) -> Counter[Ngram]:
    """How often each run of ``order`` tokens occurs."""
    starts = range(len(tokens) - order + 1)
    return Counter(tuple(tokens[start : start + order]) for start in starts)


def count_matches(output: Tokens, references: Sequence[Tokens], order: int) -> Counter[Ngram]:
    """The n-grams of the output, each as often as the reference that has most of it allows."""
    allowed: Counter[Ngram] = Counter()
    for reference in references:
        allowed |= count_ngrams(reference, order)
    return count_ngrams(output, order) & allowed


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


def _reference_counts(references: Sequence[Sequence[Tokens]]) -> Counter[Ngram]:
    """Counts of all n-grams; that of the empty one is the number of tokens."""
    counts: Counter[Ngram] = Counter()
    for texts in references:
        for text in texts:
            counts[()] += len(text)
            for order in range(1, _LONGEST_OF_NIST + 1):
                counts.update(count_ngrams(text, order))
    return counts


def _brevity(references: Sequence[Sequence[Tokens]], outputs: Sequence[Tokens]) -> float:
    expected = sum(sum(map(len, texts)) / len(texts) for texts in references)
    ratio = min(1.0, sum(map(len, outputs)) / expected)
    return math.exp(-_BETA * math.log(ratio) ** 2)


def _mean(metric: Any, references: Sequence[Sequence[str]], outputs: Sequence[str]) -> float:
    theirs = {index: list(texts) for index, texts in enumerate(references)}
    ours = {index: [output] for index, output in enumerate(outputs)}
    return float(metric.compute_score(theirs, ours)[0])
