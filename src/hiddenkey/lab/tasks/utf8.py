"""Reading a whole UTF-8 file, with the line of what is wrong with it."""

from __future__ import annotations

from pathlib import Path

from hiddenkey.lab.tasks.faults import FileFaults


def read_bytes(path: Path, faults: FileFaults) -> bytes | None:
    """Return the content of a file, or record why it cannot be read."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        faults.add("does not exist; check the path")
    except IsADirectoryError:
        faults.add("must be a file, got a folder; name a file in it")
    except OSError as error:
        faults.add(f"cannot be read ({error.strerror}); check its permissions")
    else:
        if raw.strip():
            return raw
        faults.add("must hold text, got an empty file; check the path")
    return None


def decode(raw: bytes, faults: FileFaults) -> str | None:
    """Return UTF-8 bytes as text without a byte order mark, or record the first wrong byte."""
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
