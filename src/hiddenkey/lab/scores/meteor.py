"""METEOR 1.5 (Denkowski and Lavie 2014), English, by its authors' Java program.

The program answers what it is asked, line by line: ``SCORE ||| reference ||| … ||| output`` with
the statistics of a segment; ``EVAL ||| statistics ||| …`` with the score of each segment and, last,
the score of the corpus, which is not their mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from hiddenkey.lab.scores.java import Tools
from hiddenkey.lab.scores.process import Program

SECONDS: Final = 300.0  # to load its tables; a segment takes a few thousandths of a second
_SEPARATOR: Final = re.compile(r"\|\|\||[\r\n]")


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
