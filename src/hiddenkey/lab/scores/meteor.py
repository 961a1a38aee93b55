"""METEOR 1.5 (Denkowski and Lavie 2014), English, by its authors' Java program.

The program answers what it is asked, line by line: ``SCORE ||| reference ||| … ||| output`` with
the statistics of a segment; ``EVAL ||| statistics ||| …`` with the score of each segment and, last,
the score of the corpus, which is not their mean.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.scores.java import Tools, last_words

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
    with _program(tools, SECONDS + len(outputs) / 10) as program:
        statistics = [
            program.ask(" ||| ".join(["SCORE", *map(_one_line, texts), _one_line(output)]))
            for texts, output in zip(references, outputs, strict=True)
        ]
        return [_evaluate(program, [statistics[index] for index in group]) for group in groups]


def _evaluate(program: _Program, statistics: Sequence[str]) -> float:
    answers = [program.ask(" ||| ".join(["EVAL", *statistics]))]
    answers += [program.listen() for _ in statistics]
    try:
        return float(answers[-1])
    except ValueError:
        raise _failure(f"it answered {answers[-1][:80]!r} for the corpus") from None


class _Program:
    """A conversation with the running program."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes], limit: float) -> None:
        self._process = process
        self._errors = errors
        self._limit = limit
        self.late = False

    def stop(self) -> None:
        """End the program because its time is up."""
        self.late = True
        self._process.kill()

    def ask(self, line: str) -> str:
        """Send one line and return the first line of the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode("utf-8", "replace") + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        return self.listen()

    def listen(self) -> str:
        """Return the next line of the answer."""
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().decode("utf-8", "replace")
        if not answer:
            raise self._ended()
        if answer.startswith("Error"):
            raise _failure(f"it answered {answer.strip()!r}")
        return answer.strip()

    def _ended(self) -> ConfigError:
        if self.late:
            return _failure(f"it did not finish within {self._limit:.0f} s")
        status = self._process.wait()
        self._errors.seek(0)
        errors = last_words(self._errors.read().decode("utf-8", "replace"))
        return _failure(f"it ended with status {status} ({errors})")


@contextmanager
def _program(tools: Tools, limit: float) -> Iterator[_Program]:
    command = tools.command("-jar", str(tools.meteor), "-", "-", "-stdio", "-l", "en", "-norm")
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command,
                cwd=tools.meteor.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        except OSError as error:
            raise _failure(f"{tools.java!r} could not be started ({error.strerror})") from None
        program = _Program(process, errors, limit)
        # a killed process closes both pipes, so no read or write can wait longer than this
        watch = threading.Timer(limit, program.stop)
        watch.daemon = True
        watch.start()
        try:
            yield program
        finally:
            watch.cancel()
            process.kill()
            _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    """Collect the ended process; what was left unwritten does not matter."""
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        with suppress(OSError):
            stream.close()
    process.wait()


def _one_line(text: str) -> str:
    """The text without what separates texts and questions."""
    return _SEPARATOR.sub(" ", text)


def _failure(reason: str) -> ConfigError:
    return ConfigError(f"METEOR must answer, but {reason}; check that 'java -version' works")
