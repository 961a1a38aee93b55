"""Running another program without ever waiting for it longer than a limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from hiddenkey.errors import ConfigError

_ERRORS_SHOWN = 300  # characters


class Program:
    """A running program, for questions and answers of one line each.

    When its time is up it is killed, which ends every read and write that waits for it.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], name: str, errors: IO[bytes], limit: float
    ) -> None:
        self._process = process
        self._name = name
        self._errors = errors
        self._limit = limit
        self._late = False

    def stop(self) -> None:
        """End the program because its time is up."""
        self._late = True
        kill(self._process)

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
        return answer.strip()

    def convert(self, text: str) -> str:
        """Send everything at once and return everything that is answered until the end."""
        found, _ = self._process.communicate(text.encode("utf-8", "replace"))
        if self._late or self._process.returncode:
            raise self._ended()
        return found.decode("utf-8", "replace")

    def failure(self, reason: str) -> ConfigError:
        """The error that says what the program did instead of answering."""
        return ConfigError(
            f"{self._name} must answer, but {reason}; check that 'java -version' works"
        )

    def _ended(self) -> ConfigError:
        if self._late:
            return self.failure(f"it did not finish within {self._limit:g} s")
        status = self._process.wait()
        self._errors.seek(0)
        words = self._errors.read().decode("utf-8", "replace").split()
        errors = " ".join(words)[-_ERRORS_SHOWN:] or "nothing on standard error"
        return self.failure(f"it ended with status {status} ({errors})")


@contextmanager
def running(
    name: str, command: Sequence[str], limit: float, folder: Path | None = None
) -> Iterator[Program]:
    """Start a program; it and its children are gone when the block ends.

    Args:
        name: for messages.
        command: the program and its arguments.
        limit: seconds after which it is killed.
        folder: where it runs; the current folder if not given.

    Raises:
        ConfigError: if it cannot be started, fails, or does not finish in time.
    """
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigError(
                f"{name} must answer, but {command[0]!r} could not be started ({error.strerror});"
                " check that 'java -version' works"
            ) from None
        program = Program(process, name, errors, limit)
        watch = threading.Timer(limit, program.stop)
        watch.daemon = True
        watch.start()
        try:
            yield program
        finally:
            watch.cancel()
            kill(process)
            _close(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session of its own, with what it started."""
    with suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


def _close(process: subprocess.Popen[bytes]) -> None:
    """Collect the ended process; what was left unwritten does not matter."""
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        with suppress(OSError):
            stream.close()
    process.wait()
