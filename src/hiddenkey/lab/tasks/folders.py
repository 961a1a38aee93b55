"""Where the files of a task lie below the folder that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hiddenkey.errors import ConfigError


def find_folder(
    given: str | None, names: Sequence[str], content: Sequence[str], otherwise: str = ""
) -> Path:
    """Return the task's folder: ``given/NAME``, or ``given`` itself where it holds the files.

    Args:
        given: what the user named, if anything.
        names: of the task's folder, ours first.
        content: names of what it holds; the first one is looked for.
        otherwise: what may be given instead, for messages.

    Raises:
        ConfigError: if there is no such folder, with the places that were searched.
    """
    if given is None:
        raise ConfigError(
            f"the task needs --data, got none; give the folder that holds {names[0]}/{otherwise}"
        )
    root = Path(given)
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
