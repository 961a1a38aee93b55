"""Exact match and token F1 of short answers, as SQuAD defines them (Rajpurkar et al. 2016).

Its normalisation lowers case and drops punctuation, English articles and spaces. Unlike there, the
sign, point and separators inside a number stay, for 3.5 is not 35; a text of which nothing is left,
such as the answer "A", is taken as it is; and a character of Chinese or Japanese is a token.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from hiddenkey.lab.scores import e2e
from hiddenkey.lab.scores.java import Tools

METRICS: Final = ("exact_match", "token_f1")
NOTE: Final = (
    "most references have fewer than four tokens: BLEU counts runs of up to four and means nothing"
    f" here; look at {METRICS[0]} and {METRICS[1]}"
)
_SHORTEST: Final = 4
_OF_NUMBER: Final = r"(?<=\d)[-./:](?=\d)|(?<!\w)-(?=\.?\d)|(?<![\w.])\.(?=\d)"
_MARK: Final = re.compile(rf"({_OF_NUMBER})|[{re.escape(string.punctuation)}]")
_ARTICLE: Final = re.compile(r"\b(a|an|the)\b")
_TOKEN: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")


def tokenize(text: str) -> list[str]:
    """The normalised tokens of a text."""
    lower = text.lower().strip()
    bare = _ARTICLE.sub(" ", _MARK.sub(lambda mark: mark[1] or "", lower))
    return _TOKEN.findall(bare) or _TOKEN.findall(lower)


def exact_match(references: Sequence[str], output: str) -> float:
    """1 if the output is one of the references, else 0."""
    return float(tokenize(output) in map(tokenize, references))


def token_f1(references: Sequence[str], output: str) -> float:
    """2 · common / (output's + reference's tokens), of the reference for which it is largest."""
    ours = tokenize(output)
    return max(
        2 * (Counter(ours) & Counter(theirs)).total() / (len(ours) + len(theirs) or 1)
        for theirs in map(tokenize, references)
    )


def main_metric(references: Sequence[Sequence[str]]) -> str:
    """The metric to judge by: BLEU, unless most instances have fewer tokens than it counts runs of.

    These may be short answers, for exact match, or a script without spaces, for token F1.
    """
    if not are_short(references):
        return "BLEU"
    return METRICS[0] if _most_short(references, tokenize) else METRICS[1]


def are_short(references: Sequence[Sequence[str]]) -> bool:
    """Whether BLEU means nothing for most of the instances."""
    return _most_short(references, e2e.tokenize)


def score(
    references: Sequence[Sequence[str]],
    outputs: Sequence[str],
    groups: Sequence[Sequence[int]],
    tools: Tools | None,
) -> list[dict[str, float]]:
    """Score each group of instances by the metrics of E2E and by these, means from 0 to 1."""
    found = e2e.score(references, outputs, groups, tools)
    for values, group in zip(found, groups, strict=True):
        for name, metric in zip(METRICS, (exact_match, token_f1), strict=True):
            values[name] = sum(metric(references[i], outputs[i]) for i in group) / len(group)
    return found


def _most_short(references: Sequence[Sequence[str]], split: Callable[[str], Sequence[str]]) -> bool:
    short = sum(max(len(split(text)) for text in texts) < _SHORTEST for texts in references)
    return 2 * short > len(references)
