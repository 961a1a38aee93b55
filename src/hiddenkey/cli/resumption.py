"""``hiddenkey train --resume FOLDER``: the settings are those of the run that is gone on with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.run.options import UNRECORDED, TrainOptions

_FLAG: Final = "--resume"
_TRUTHS: Final = ("true", "false")
_BESIDE: Final = tuple(
    name for name in (*UNRECORDED, "help") if name not in ("output", "resume", "overwrite")
)
"""Settings that may stand beside a folder: they are no part of a run."""


def with_settings(words: Sequence[str]) -> list[str]:
    """Return the words of the command with the settings of the run in ``--resume FOLDER``.

    Other words are returned as they are.

    Raises:
        ConfigError: if the folder holds no run, or a setting of the run stands beside it.
    """
    folder, rest = _taken(words)
    if folder is None:
        return list(words)
    from hiddenkey.lab.run.folder import CONFIG  # not for --help

    config = Path(folder) / CONFIG
    faults = []
    if not config.is_file():
        faults.append(
            f"{_FLAG} must name a run's folder, which holds {CONFIG}, got {folder!r}; check the"
            " path"
        )
    flags = [word.partition("=")[0] for word in rest if word.startswith("--")]
    faults += [
        f"{flag} must be left out beside {_FLAG} {shlex.quote(folder)}, which takes its settings"
        f" from {config}; only {', '.join(map(_shown, _BESIDE[:-1]))} may stand there"
        for flag in flags
        if flag[2:].replace("-", "_").partition(".")[0] not in _BESIDE
    ]
    if faults:
        raise ConfigError(faults)
    return [f"--config={config}", f"--output={folder}", f"{_FLAG}=true", *rest]


def command(options: TrainOptions) -> str:
    """Return the command that goes on with a run."""
    words = ["hiddenkey", "train", _FLAG, str(options.folder)]
    if options.trust_remote_code:
        words.append("--trust-remote-code")
    if options.push_to_hub is not None:
        words += ["--push-to-hub", options.push_to_hub]
    return shlex.join(words)


def _taken(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The folder after the flag, if there is one, and the other words."""
    rest = list(words)
    for index, word in enumerate(rest):
        flag, equals, value = word.partition("=")
        if flag != _FLAG:
            continue
        if not equals:
            value = rest[index + 1] if index + 1 < len(rest) else "true"
        if value.lower() in _TRUTHS or value.startswith("--"):
            return None, rest
        return value, rest[:index] + rest[index + (1 if equals else 2) :]
    return None, rest


def _shown(name: str) -> str:
    return "--" + name.replace("_", "-")
