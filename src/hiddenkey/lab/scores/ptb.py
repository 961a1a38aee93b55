"""Tokens of the COCO caption code: Stanford's Penn Treebank tokenizer, less the punctuation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from hiddenkey.lab.scores.java import Tools
from hiddenkey.lab.scores.process import Program

SECONDS: Final = 300.0  # to start; a text takes less than a thousandth of a second
_DROPPED: Final = frozenset(
    "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split()  # noqa: SIM905
)
# the tokenizer would start a new line at any of these
_LINE_BREAK: Final = re.compile("[\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")


def tokenize(texts: Sequence[str], tools: Tools) -> list[str]:
    """Return each text's tokens in lower case, with one space between them.

    The texts go through one process, a line each. Brackets stay, as ``-lrb-``: the official list of
    punctuation has them in capitals.

    Raises:
        ConfigError: if the tokenizer fails or does not end.
    """
    command = tools.command(
        "-cp", str(tools.tokenizer), "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines", "-lowerCase",
    )  # fmt: skip
    with Program("the Penn Treebank tokenizer", command, SECONDS + len(texts) / 100) as program:
        answer = program.convert("\n".join(_LINE_BREAK.sub(" ", text) for text in texts))
        found = answer.split("\n")
        if len(found) == len(texts) + 1 and not found[-1]:
            found.pop()  # the newline that ends the last line
        if len(found) != len(texts):
            raise program.failure(f"it gave {len(found)} lines for {len(texts)}")
    return [
        " ".join(token for token in line.rstrip().split(" ") if token not in _DROPPED)
        for line in found
    ]
