"""Sections of a document that commands write, between the words that somebody wrote by hand."""

from __future__ import annotations

import os
import re
from pathlib import Path

from hiddenkey.errors import ConfigError

_TITLE = "# Models and adapters\n"


def replace_section(path: Path, name: str, text: str) -> None:
    """Put text between ``<!-- name -->`` and ``<!-- /name -->``, and leave all else as it is.

    A section that is not there yet comes last; a file that is not there is made. The file appears
    whole.

    Args:
        path: a Markdown file.
        name: of the section.
        text: what it holds from now on, without the marks.

    Raises:
        ConfigError: if the file cannot be written, or its marks do not come as one pair.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else _TITLE
    except OSError as error:
        raise ConfigError(_unusable(path, error)) from error
    section = f"{begin}\n{text.strip()}\n{end}"
    if (before.count(begin), before.count(end)) == (0, 0):
        after = f"{before.rstrip()}\n\n{section}\n"
    elif (before.count(begin), before.count(end)) == (1, 1):
        whole = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
        after, replaced = whole.subn(lambda _: section, before)
        if not replaced:
            raise ConfigError(f"{path}: {end} must come after {begin}; mend the marks")
    else:
        raise ConfigError(f"{path}: {begin} and {end} must be there once each; mend the marks")
    write_whole(path, after)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody reads half of it; folders are made.

    Raises:
        ConfigError: if it cannot be written.
    """
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            half.write_text(text, encoding="utf-8")
            half.replace(path)
        finally:
            half.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(_unusable(path, error)) from error


def _unusable(path: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{path} must be a file that can be written ({reason}); choose another one"
