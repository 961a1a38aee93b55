"""The versions of other libraries with which this one was tried.

``docs/COMPATIBILITY.md`` has what was tried with each of them.
"""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import dataclass
from typing import Final

from hiddenkey.errors import VersionWarning


@dataclass(frozen=True)
class Tried:
    """The oldest and the newest version that were tried, both as "major.minor"."""

    oldest: str
    newest: str


TRIED: Final = {
    "torch": Tried("2.6", "2.13"),
    "transformers": Tried("4.57", "5.24"),
    "peft": Tried("0.18", "0.21"),
}

_warned: set[str] = set()


def warn_untried() -> None:
    """Warn once, in one sentence, of loaded libraries outside of the range that was tried."""
    words = [
        f"{name} {version} is {side}"
        for name in TRIED
        if name in sys.modules
        and (version := str(getattr(sys.modules[name], "__version__", "")))
        and (side := untried(name, version))
        and name not in _warned
    ]
    if not words:
        return
    _warned.update(word.partition(" ")[0] for word in words)
    warnings.warn(
        f"hiddenkey was not tried with these versions: {', '.join(words)}; where something fails,"
        " install a version between",
        VersionWarning,
        stacklevel=3,
    )


def untried(name: str, version: str) -> str | None:
    """Say on which side of the range that was tried a version lies; ``None``: inside.

    Releases that differ in their last number only count as one.
    """
    given, tried = _number(version), TRIED[name]
    if given < _number(tried.oldest):
        return f"older than {tried.oldest}"
    return f"newer than {tried.newest}" if given > _number(tried.newest) else None


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
