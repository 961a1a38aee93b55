"""Reads from what pip printed why nothing got installed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from breakage import INSTALLATION, Cause, shortened

_CONSTRAINT: Final = r"\(constraint\) ([\w.-]+)==([\w.]+)"
_TO_BLAME: Final = (
    _CONSTRAINT,
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
    found = found[: found.index("")]
    return [line for line in found if not _agrees(line, _given(found))]


def _given(conflict: Sequence[str]) -> dict[str, str]:
    """Return the versions that the constraints give, by package."""
    found = (re.search(_CONSTRAINT, line) for line in conflict)
    return {canonicalize_name(one[1]): one[2] for one in found if one}


def _agrees(line: str, given: Mapping[str, str]) -> bool:
    """Whether a line names a requirement that the version given for it meets."""
    _, found, text = line.partition(" depends on ")
    try:
        requirement = Requirement(text.partition(";")[0].replace(" and ", ","))
    except InvalidRequirement:
        return False
    version = given.get(canonicalize_name(requirement.name))
    return bool(found) and version is not None and version in requirement.specifier


def _to_blame(lines: Sequence[str]) -> tuple[str, str]:
    """Return name and version of the package that could not be installed."""
    for pattern in _TO_BLAME:
        for line in lines:
            if found := re.search(pattern, line):
                return found[1], (found[2] or "").rstrip(".")
    return "pip", ""
