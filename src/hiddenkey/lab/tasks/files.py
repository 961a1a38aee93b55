"""Files of data: where they lie, their text in UTF-8, and what is wrong with it, line by line."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hiddenkey.errors import ConfigError

_SHOWN_PER_FILE: Final = 5
_MOST_PER_FILE: Final = 1000


@dataclass
class FileFaults:
    """The faults of one file; only the first few are shown, the rest are counted."""

    path: Path | str
    found: list[tuple[int, str]] = field(default_factory=list)
    unit: str = "line"

    def add(self, rule: str, line: int | None = None) -> None:
        """Record a broken rule, at a line or of the whole file."""
        where = f"{self.path}" if line is None else f"{self.path}, {self.unit} {line}"
        if not self.is_full:
            self.found.append((line or 0, f"{where}: {rule}"))

    @property
    def is_full(self) -> bool:
        """Whether there are so many that reading on would only take time and memory."""
        return len(self.found) >= _MOST_PER_FILE

    def shown(self) -> list[str]:
        """The faults to report, in the order of the lines."""
        more = len(self.found) - _SHOWN_PER_FILE
        rest = [f"{self.path}: {more} more rows break a rule"] if more > 0 else []
        if self.is_full:
            rest = [f"{rest[0]}; the rest was not read"]
        return [fault for _, fault in sorted(self.found)[:_SHOWN_PER_FILE]] + rest


def refuse(*files: FileFaults) -> None:
    """Raise what is wrong with some files, if anything is.

    Raises:
        ConfigError: with the faults of all of them.
    """
    if faults := [fault for file in files for fault in file.shown()]:
        raise ConfigError(faults)


def read_bytes(path: Path, faults: FileFaults) -> bytes | None:
    """Return the content of a file, or record why it cannot be read."""
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind):  # a device or a pipe may never end
            what = "folder; name a file in it" if stat.S_ISDIR(kind) else "device; save its content"
            faults.add(f"must be a file, got a {what}")
            return None
        raw = path.read_bytes()
    except FileNotFoundError:
        where = "" if path.is_absolute() else f" in the folder {os.getcwd()}"
        faults.add(f"does not exist{where}; check the path")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", error)
        faults.add(f"cannot be read ({reason}); check its permissions")
    else:
        if raw.strip():
            return raw
        faults.add("must hold text, got an empty file; check the path")
    return None


def decode(raw: bytes, faults: FileFaults) -> str | None:
    """Return UTF-8 bytes as text without a byte order mark, or record the first wrong byte."""
    if (null := raw.find(b"\0")) >= 0:  # UTF-16 and binary files are full of them
        line = raw.count(b"\n", 0, null) + 1
        faults.add("must be text in UTF-8, got a NUL byte; save the file as UTF-8", line)
        return None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        faults.add(
            f"must be UTF-8, got byte 0x{raw[error.start]:02x}; save the file as UTF-8", line
        )
        return None


def read_text(path: Path, faults: FileFaults) -> str | None:
    """Return the text of a UTF-8 file, or record why there is none."""
    raw = read_bytes(path, faults)
    return None if raw is None else decode(raw, faults)


def find_folder(given: str | None, names: Sequence[str], content: Sequence[str]) -> Path:
    """Return the task's folder: ``given/NAME``, or ``given`` itself where it holds the files.

    Args:
        given: what the user named, if anything.
        names: of the task's folder, ours first.
        content: names of what it holds; the first one is looked for.

    Raises:
        ConfigError: if there is no such folder, with the places that were searched.
    """
    root = Path(given or ".")
    places = [*(root / name for name in names), root]
    for place in places:
        if (place / content[0]).exists():
            return place
    searched = ", ".join(str(place / content[0]) for place in places)
    files = " and ".join(f"{names[0]}/{name}" for name in content)
    raise ConfigError(
        f"--data must be a folder that holds {files}, got {given!r} (searched {searched});"
        " give the folder above the task's folder"
    )
