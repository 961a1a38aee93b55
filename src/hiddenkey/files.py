"""Files that a reader sees whole or not at all, and values as JSON can hold them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


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
