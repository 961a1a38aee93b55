"""Files that a reader sees whole or not at all, and values as JSON can hold them."""

from __future__ import annotations

import json
import math
import os
import threading
import zlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final

CHECKSUMS: Final = "checksums.json"
"""The file of a folder that :func:`seal` wrote: it holds the checksum of each other file."""


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file so that a reader sees the old one or the whole new one; its folder is made.

    The new one is on the disk before it takes the old one's name, so that a power cut leaves one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with half.open("wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    return path


def seal(folder: Path, *names: str) -> None:
    """Put a folder's files on the disk, and write their checksums beside them, last of all.

    Args:
        folder: the folder.
        names: the files and folders in it that count; all of them where none is named.
    """
    (folder / CHECKSUMS).unlink(missing_ok=True)
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (not names or path.relative_to(folder).parts[0] in names):
            found[path.relative_to(folder).as_posix()] = _checksum(path)
            with path.open("r+b") as file:
                os.fsync(file.fileno())
    write_whole(folder / CHECKSUMS, json.dumps(found, indent=1) + "\n")


def damage(folder: Path) -> str | None:
    """Say what is wrong with a folder since it was sealed; ``None``: nothing, or it never was."""
    if not (folder / CHECKSUMS).exists():
        return None
    try:
        sealed = dict(json.loads((folder / CHECKSUMS).read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return f"{CHECKSUMS} is damaged"
    for name, checksum in sealed.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if _checksum(path) != checksum:
            return f"{name} is damaged"
    return None


def _checksum(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while piece := file.read(2**20):
            found = zlib.crc32(piece, found)
    return found


def plain(value: Any) -> Any:
    """Return a value in JSON's types: dataclasses with their properties, NaN and ∞ as ``None``."""
    if is_dataclass(value):
        own = [field.name for field in fields(value)]
        own += [name for name, found in vars(type(value)).items() if isinstance(found, property)]
        return {name: plain(getattr(value, name)) for name in own}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
