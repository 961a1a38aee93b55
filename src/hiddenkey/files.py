"""Files that a reader sees whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file so that a reader sees the old one or the whole new one; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.write_bytes(content if isinstance(content, bytes) else content.encode())
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    return path
