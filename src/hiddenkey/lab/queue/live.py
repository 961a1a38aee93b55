"""What each worker of this machine does now: small files that the command beside them reads."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SECONDS: Final = 0.3
"""Between two files of one worker: a step may take a thousandth."""


@dataclass(frozen=True)
class Doing:
    """What a worker does.

    Attributes:
        what: the run, as a person calls it.
        step: steps made.
        steps: steps in all; 0 if that is not known.
        note: what was measured last.
    """

    what: str
    step: int = 0
    steps: int = 0
    note: str = ""

    @property
    def share(self) -> float:
        """Share of the steps that is made; 0 if it is not known."""
        return min(1.0, self.step / self.steps) if self.steps else 0.0


class Live:
    """Tells what this process does.

    Args:
        folder: where the command looks; ``None`` tells nobody.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else _path(folder, os.getpid())
        self._due = 0.0

    def tell(self, doing: Doing | Callable[[], Doing], *, now: bool = False) -> None:
        """Write what is done, unless that was written a moment ago; a failure costs a look only.

        Args:
            doing: what, or what finds it out.
            now: write it in any case.
        """
        if self._path is None or (time.monotonic() < self._due and not now):
            return
        self._due = time.monotonic() + _SECONDS
        found = doing() if callable(doing) else doing
        half = self._path.with_suffix(".half")
        with suppress(OSError):
            half.write_text(json.dumps(dataclasses.asdict(found)), encoding="utf-8")
            half.replace(self._path)

    def clear(self) -> None:
        """Say that nothing is done."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def look(folder: Path, process: int) -> Doing | None:
    """Return what a worker does; ``None`` if it waits for a job, or is only starting."""
    try:
        return Doing(**json.loads(_path(folder, process).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _path(folder: Path, process: int) -> Path:
    return folder / f"{process}.json"
