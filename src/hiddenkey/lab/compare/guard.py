"""Starts a command, and ends it with all its children when the process that asked for it ends.

Run as a program by ``launched``, with nothing but the standard library:

    python guard.py FILE_DESCRIPTOR COMMAND…

The descriptor is the reading end of a pipe that the other process holds open while it lives.
SIGTERM and SIGINT end the command too. The status is the command's, 128 + n for signal n.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

_PATIENCE_SECONDS = 10


def main(descriptor: int, command: list[str]) -> int:
    """Run the command to its end and return its status."""
    process = subprocess.Popen(command, start_new_session=True)

    def end(*_: object) -> None:
        threading.Thread(target=_end, args=(process,), daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)

    def watch() -> None:
        os.read(descriptor, 1)
        _end(process)

    threading.Thread(target=watch, daemon=True).start()
    status = process.wait()
    return status if status >= 0 else 128 - status


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command's whole session: a launcher's children belong to it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
