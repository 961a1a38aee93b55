"""What is wrong with a file, line by line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_SHOWN_PER_FILE: Final = 5


@dataclass
class FileFaults:
    """The faults of one file; only the first few are shown, the rest are counted."""

    path: Path | str
    found: list[tuple[int, str]] = field(default_factory=list)
    unit: str = "line"

    def add(self, rule: str, line: int | None = None) -> None:
        """Record a broken rule, at a line or of the whole file."""
        where = f"{self.path}" if line is None else f"{self.path}, {self.unit} {line}"
        self.found.append((line or 0, f"{where}: {rule}"))

    def shown(self) -> list[str]:
        """The faults to report, in the order of the lines."""
        more = len(self.found) - _SHOWN_PER_FILE
        rest = [f"{self.path}: {more} more rows break a rule"] if more > 0 else []
        return [fault for _, fault in sorted(self.found)[:_SHOWN_PER_FILE]] + rest
