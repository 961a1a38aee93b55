"""The Java programs that the official scores need: METEOR 1.5 and the Penn Treebank tokenizer.

Both are jars inside the package pycocoevalcap, whose own calls of them have no time limit.

METEOR (Denkowski and Lavie 2014) answers line by line. ``SCORE ||| reference ||| … ||| output``
gives the statistics of a segment. ``EVAL ||| statistics ||| …`` gives the score of each segment
and, last, the score of the corpus, which is not their mean.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.assets import Asset, locate
from hiddenkey.lab.scores.process import Program

COCO_CAPTION: Final = Asset(
    "pycocoevalcap", "1.2", "pycocoevalcap", "METEOR 1.5 and the Penn Treebank tokenizer"
)
_METEOR: Final = "meteor/meteor-1.5.jar"
_TOKENIZER: Final = "tokenizer/stanford-corenlp-3.4.1.jar"

# the same numbers and letters whatever the user's locale is
_LOCALE: Final = (
    "-Duser.language=en",
    "-Duser.country=US",
    "-Dfile.encoding=UTF-8",
    "-Dsun.stdout.encoding=UTF-8",
    "-Dstdout.encoding=UTF-8",
)

SECONDS: Final = 300.0  # to start; a segment takes a few thousandths of a second, a text less
_SEPARATOR: Final = re.compile(r"\|\|\||[\r\n]")
_DROPPED: Final = frozenset(
    "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split()  # noqa: SIM905
)
# the tokenizer would start a new line at any of these
_LINE_BREAK: Final = re.compile("[\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")


class MissingToolError(Exception):
    """A program that a metric needs is not installed; the text says which and what to do."""


@dataclass(frozen=True)
class Tools:
    """The programs that were found.

    Attributes:
        java: the java command.
        meteor: the jar of METEOR 1.5.
        tokenizer: the jar of the Penn Treebank tokenizer.
    """

    java: str
    meteor: Path
    tokenizer: Path

    def command(self, *words: str) -> list[str]:
        """A command line of the Java virtual machine."""
        # other garbage collectors take seconds longer to start
        return [self.java, *_LOCALE, "-Xmx2G", "-XX:+UseSerialGC", *words]


def find_tools() -> Tools:
    """Return Java and both jars.

    Raises:
        MissingToolError: naming everything that is missing.
    """
    missing = []
    java = _find_java()
    if java is None:
        missing.append("needs Java, no 'java' was found; install a Java runtime")
    folder = Path()
    try:
        folder = locate(COCO_CAPTION)
    except ConfigError as error:
        missing += error.faults
    else:
        missing += [
            f"needs {jar} of package {COCO_CAPTION.package!r}, no such file;"
            f" run: {COCO_CAPTION.install_command} --force-reinstall"
            for jar in (_METEOR, _TOKENIZER)
            if not (folder / jar).is_file()
        ]
    if java is None or missing:
        raise MissingToolError("; ".join(missing))
    return Tools(java, folder / _METEOR, folder / _TOKENIZER)


def meteor(
    references: Sequence[Sequence[str]],
    outputs: Sequence[str],
    groups: Sequence[Sequence[int]],
    tools: Tools,
) -> list[float]:
    """METEOR from 0 to 1 of each group of instances, given by their indices.

    Raises:
        ConfigError: if the program fails or does not answer in time.
    """
    command = tools.command("-jar", str(tools.meteor), "-", "-", "-stdio", "-l", "en", "-norm")
    limit = SECONDS + len(outputs) / 10
    with Program("METEOR", command, limit, tools.meteor.parent) as program:
        statistics = [
            _check(program, program.ask(" ||| ".join(["SCORE", *map(_one_line, (*texts, output))])))
            for texts, output in zip(references, outputs, strict=True)
        ]
        return [_evaluate(program, [statistics[index] for index in group]) for group in groups]


def treebank_tokens(texts: Sequence[str], tools: Tools) -> list[str]:
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


def _find_java() -> str | None:
    places = [os.environ.get("PATH", os.defpath)]
    if home := os.environ.get("JAVA_HOME"):
        places.append(str(Path(home, "bin")))
    return shutil.which("java", path=os.pathsep.join(filter(None, places)))


def _evaluate(program: Program, statistics: Sequence[str]) -> float:
    answers = [program.ask(" ||| ".join(["EVAL", *statistics]))]
    answers += [program.listen() for _ in statistics]
    return float(_check(program, answers[-1]))


def _check(program: Program, answer: str) -> str:
    """The answer, if it is numbers; the program writes its errors to the same place."""
    try:
        [float(part) for part in answer.split()]
    except ValueError:
        raise program.failure(f"it said {answer[:200]!r}") from None
    return answer


def _one_line(text: str) -> str:
    """The text without what separates texts and questions."""
    return _SEPARATOR.sub(" ", text)
