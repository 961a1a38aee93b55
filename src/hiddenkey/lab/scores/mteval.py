"""Tokens and n-gram counts of BLEU and NIST in the E2E scorer.

The scorer's Python part (``pymteval``) follows NIST's mteval-v13a: entities become characters,
punctuation is split off, but a full stop or comma stays inside a number and a hyphen stays inside a
word. Nothing is case-sensitive. An empty text has one token, the empty string.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

Tokens = Sequence[str]
Ngram = tuple[str, ...]

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


def tokenize(text: str) -> list[str]:
    """Split a text into tokens in lower case."""
    for old, new in _REPLACED:
        text = text.replace(old, new)
    text = f" {text} "
    for pattern, replacement in _SPLIT:
        text = pattern.sub(replacement, text)
    return [token.lower() for token in text.strip().split(" ")]


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
