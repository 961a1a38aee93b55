"""Reads from what pip printed why nothing got installed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from breakage import INSTALLATION, Cause, shortened

_TO_BLAME: Final = (
    r"\(constraint\) ([\w.-]+)==([\w.]+)",
    r"^([\w.-]+) ([\w.]+) depends on ",
    r"(?:Cannot install|No matching distribution found for) ([\w.-]+)(?:==([\w.]+))?",
    r"Failed to build '?([\w.-]+)(?:==([\w.]+))?",
)
"""What pip says of the package to blame, the most telling first."""


def installation_failure(output: str) -> Cause:
    """Return the row of an installation that failed, with the versions that are to blame."""
    lines = [line.strip() for line in output.splitlines()]
    conflict = _conflict(lines)
    errors = [line for line in lines if re.match(r"(error|\w*Error)\b", line, re.IGNORECASE)]
    what = "; ".join(conflict) or next(iter(errors or reversed(lines)), "no message")
    library, version = _to_blame([*conflict, *lines])
    return Cause(library, version, shortened(what), 0, INSTALLATION)


def _conflict(lines: Sequence[str]) -> list[str]:
    """Return pip's lines about the versions that contradict each other."""
    start = next((i for i, line in enumerate(lines) if "conflict is caused by" in line), None)
    if start is None:
        return []
    found = [*lines[start + 1 :], ""]
    return found[: found.index("")]


def _to_blame(lines: Sequence[str]) -> tuple[str, str]:
    """Return name and version of the package that could not be installed."""
    for pattern in _TO_BLAME:
        for line in lines:
            if found := re.search(pattern, line):
                return found[1], (found[2] or "").rstrip(".")
    return "pip", ""
