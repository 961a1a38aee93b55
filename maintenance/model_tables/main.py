"""The two commands that write docs/MODELS.md."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Final

from hiddenkey.cli.commands import Command, listing
from hiddenkey.errors import ConfigError

COMMANDS: Final[Mapping[str, Command]] = {
    "architectures": Command(
        "what a method does on every architecture of transformers",
        "model_tables.architectures",
        "model_tables.options:ArchitecturesOptions",
    ),
    "adapters": Command(
        "what the library does with every adapter of PEFT",
        "model_tables.adapters.command",
        "model_tables.options:AdaptersOptions",
    ),
}
_USER_ERROR: Final = 2


def main(words: Sequence[str]) -> int:
    """Run one of the commands and return the exit status: 1 if a check failed, 2 for an error."""
    name, *rest = words or [""]
    if name not in COMMANDS:
        print(f"give one of these commands:\n{listing(COMMANDS)}", file=sys.stderr)
        return _USER_ERROR
    try:
        return COMMANDS[name].run(f"python maintenance/model_tables {name}", rest)
    except ConfigError as error:
        print("\n".join(f"{name}: error: {fault}" for fault in error.faults), file=sys.stderr)
        return _USER_ERROR
