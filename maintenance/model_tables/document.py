"""Sections of a document that commands write, between the words that somebody wrote by hand."""

from __future__ import annotations

import dataclasses
import platform
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from hiddenkey import files
from hiddenkey.errors import ConfigError

DOCUMENT: Final = "MODELS.md"
_TITLE: Final = "# Models and adapters\n"


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
            raise ConfigError(f"{path}: {end} must come after {begin}; fix the marks")
    else:
        raise ConfigError(f"{path}: {begin} and {end} must be there once each; fix the marks")
    write_whole(path, after)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody reads half of it; folders are made.

    Raises:
        ConfigError: if it cannot be written.
    """
    try:
        files.write_whole(path, text)
    except OSError as error:
        raise ConfigError(_unusable(path, error)) from error


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; cells may hold Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def verdicts(counts: Mapping[str, int], meanings: Mapping[str, str], what: str) -> str:
    """Return the table of how often each verdict came, in the order of their meanings."""
    rows = [(name, str(counts[name]), text) for name, text in meanings.items() if counts.get(name)]
    return table(("verdict", what, "meaning"), rows)


def written_by(command: str, date: str, versions: Mapping[str, str]) -> str:
    """Say what wrote a section, when, and with which versions."""
    listed = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"Written by `{command}` on {date} with {listed}."


def command_line(command: str, options: Any) -> str:
    """Return the command with a flag for each setting that is not the default."""
    words = ["python", "maintenance/model_tables", command]
    for each in dataclasses.fields(options):
        value = getattr(options, each.name)
        if value != each.default:
            values = value if isinstance(value, tuple) else () if value is True else (value,)
            words += [f"--{each.name}", *map(str, values)]
    return shlex.join(words)


def today() -> str:
    """Return the date in UTC."""
    return datetime.now(UTC).date().isoformat()


def installed(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _unusable(path: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{path} must be a file that can be written ({reason}); choose another one"
