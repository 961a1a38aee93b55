"""Turns what the plugin wrote into short tables: one row for each cause."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from packaging.version import InvalidVersion, Version

OWN: Final = "hiddenkey/tests"
"""Stands for the library where none but the project's own code was on the way."""

INSTALLATION: Final = "installation"
LONGEST_MESSAGE: Final = 100
MOST_ROWS: Final = 20
_COLUMNS: Final = ("version", "what", "tests", "for example")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Versions:
    """Versions of packages, those that are fixed beside those that were installed.

    Attributes:
        locked: versions of constraints.txt on this platform, by package.
        installed: versions in the environment under test; empty if nothing got installed.
    """

    locked: Mapping[str, str]
    installed: Mapping[str, str]

    def differ(self, name: str) -> bool:
        """Whether the environment has another version than the fixed one."""
        return not _same(self.locked.get(name), self.installed.get(name))

    def change(self, name: str) -> str:
        """Return ``locked → installed``, or one version where they are the same."""
        locked, installed = self.locked.get(name), self.installed.get(name)
        if not self.differ(name):
            return installed or ""
        return f"{locked or 'not locked'} → {installed or 'not installed'}"

    @property
    def changed(self) -> list[str]:
        """The packages that are both fixed and installed, with different versions."""
        both = self.locked.keys() & self.installed.keys()
        return sorted(name for name in both if self.differ(name))


@dataclass(frozen=True)
class Cause:
    """Why some tests broke, or a warning that some tests met.

    Attributes:
        library: the package that is to blame, or :data:`OWN`.
        version: its fixed version and the one under test.
        what: class and message of the error or warning.
        tests: how many tests met it.
        example: one of them.
    """

    library: str
    version: str
    what: str
    tests: int
    example: str


def read_records(file: Path) -> list[dict[str, Any]]:
    """Read the plugin's lines; the last one may be cut off."""
    lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def tests_run(records: Iterable[Record]) -> int:
    """How many tests ran to their end."""
    return sum(record["kind"] == "test" for record in records)


def causes(records: Iterable[Record], kind: str, versions: Versions) -> list[Cause]:
    """Return one row for each cause, those that most tests met first.

    Errors of one class that one line raised have one cause, whatever names and numbers their
    messages hold. Warnings have one where they differ in numbers alone.

    Args:
        records: what the plugin wrote.
        kind: ``"failure"`` or ``"warning"``.
        versions: tells which libraries are new.
    """
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        if record["kind"] == kind:
            same = record["place"] or re.sub(r"\d+", "#", record["message"])
            key = (blamed(record, versions), record["error"], same)
            groups.setdefault(key, []).append(record)
    found = [_cause(library, group, versions) for (library, *_), group in groups.items()]
    return sorted(found, key=lambda cause: (-cause.tests, cause.library, cause.what))


def blamed(record: Record, versions: Versions) -> str:
    """Return the deepest library on the way whose version is new, else the one that raised.

    A library that did not change is seldom the cause: torch is on the way to every hook.
    """
    new = [name for name in record["libraries"] if versions.differ(name)]
    return new[0] if new else record["raised_in"] or OWN


def _cause(library: str, group: Sequence[Record], versions: Versions) -> Cause:
    tests = list(dict.fromkeys(record["test"] for record in group))
    (message, _), *_ = Counter(record["message"] for record in group).most_common()
    what = shortened(f"{group[0]['error']}: {message}" if message else group[0]["error"])
    return Cause(library, versions.change(library), what, len(tests), tests[0])


def shortened(text: str) -> str:
    """Cut a message to what a row can hold."""
    one_line = " ".join(text.split())
    if len(one_line) <= LONGEST_MESSAGE:
        return one_line
    return one_line[: LONGEST_MESSAGE - 1].rstrip() + "…"


def table(rows: Sequence[Cause], library: str = "library") -> str:
    """Return a Markdown table of the causes that most tests met, and how many more there are."""
    lines = [(library, *_COLUMNS), ("---",) * (1 + len(_COLUMNS))]
    for row in rows[:MOST_ROWS]:
        cells = (row.library, row.version, row.what, row.tests, row.example)
        lines.append(tuple(str(cell).replace("|", "\\|") for cell in cells))
    more = len(rows) - MOST_ROWS
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return text + (f"\n\nand {more} more causes" if more > 0 else "")


def _same(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one is other
    try:  # 2.13.0 with +cpu is a build of 2.13.0
        return Version(one).public == Version(other).public
    except InvalidVersion:
        return one == other
