"""Running another program without ever waiting for it longer than a limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from hiddenkey.errors import ConfigError

_ERRORS_SHOWN = 300  # characters


class Program:
    """A running program; used as a context manager, it is gone with its children when that ends.

    When its time is up it is killed, which ends every read and write that waits for it.

    Args:
        name: for messages.
        command: the program and its arguments.
        limit: seconds after which it is killed.
        folder: where it runs; the current folder if not given.

    Raises:
        ConfigError: if it cannot be started; from each method, if it fails or is late.
    """

    def __init__(
        self, name: str, command: Sequence[str], limit: float, folder: Path | None = None
    ) -> None:
        self._name, self._limit, self._late = name, limit, False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed when the program ends
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise self.failure(f"{command[0]!r} could not be started ({error.strerror})") from None
        self._watch = threading.Timer(limit, self._stop)
        self._watch.daemon = True
        self._watch.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.cancel()
        self._kill()
        for stream in (self._input, self._output, self._errors):
            with suppress(OSError):  # what was left unwritten does not matter
                stream.close()
        self._process.wait()

    def ask(self, line: str) -> str:
        """Send one line and return the first line of the answer."""
        try:
            self._input.write(line.encode("utf-8", "replace") + b"\n")
            self._input.flush()
        except OSError:
            raise self._ended() from None
        return self.listen()

    def listen(self) -> str:
        """Return the next line of the answer."""
        answer = self._output.readline().decode("utf-8", "replace")
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

    @property
    def _input(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _ended(self) -> ConfigError:
        if self._late:
            return self.failure(f"it did not finish within {self._limit:g} s")
        status = self._process.wait()
        self._errors.seek(0)
        words = self._errors.read().decode("utf-8", "replace").split()
        errors = " ".join(words)[-_ERRORS_SHOWN:] or "nothing on standard error"
        return self.failure(f"it ended with status {status} ({errors})")

    def _stop(self) -> None:
        self._late = True
        self._kill()

    def _kill(self) -> None:
        """End the program, which leads a session of its own, with what it started."""
        with suppress(ProcessLookupError, PermissionError):
            if sys.platform == "win32":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)
