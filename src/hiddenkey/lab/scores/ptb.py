"""Tokens of the COCO caption code: Stanford's Penn Treebank tokenizer, less the punctuation."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.scores.java import Tools, last_words

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
    lines = "\n".join(_LINE_BREAK.sub(" ", text) for text in texts)
    command = tools.command(
        "-cp", str(tools.tokenizer), "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines", "-lowerCase",
    )  # fmt: skip
    limit = SECONDS + len(texts) / 100
    try:
        done = subprocess.run(
            command,
            input=lines.encode("utf-8", "replace"),
            capture_output=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _failure(f"it did not end within {limit:.0f} s") from None
    except OSError as error:
        raise _failure(f"{tools.java!r} could not be started ({error.strerror})") from None
    found = done.stdout.decode("utf-8", "replace").split("\n")
    if len(found) == len(texts) + 1 and not found[-1]:
        found.pop()  # the newline that ends the last line
    if done.returncode or len(found) != len(texts):
        errors = last_words(done.stderr.decode("utf-8", "replace"))
        raise _failure(
            f"it ended with status {done.returncode} and {len(found)} lines for {len(texts)}"
            f" ({errors})"
        )
    return [
        " ".join(token for token in line.rstrip().split(" ") if token not in _DROPPED)
        for line in found
    ]


def _failure(reason: str) -> ConfigError:
    return ConfigError(
        f"the Penn Treebank tokenizer must answer, but {reason}; check that 'java -version' works"
    )
