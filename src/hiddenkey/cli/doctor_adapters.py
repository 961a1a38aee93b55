"""``hiddenkey doctor --adapters``: what the library does with every adapter that PEFT has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hiddenkey.cli.arguments import parse
from hiddenkey.cli.terminal import standard_console
from hiddenkey.errors import ConfigError
from hiddenkey.quiet import quiet

if TYPE_CHECKING:
    from hiddenkey.compat.adapters import AdapterRow

DOCUMENT: Final = "MODELS.md"
SECTION: Final = "adapters"


@dataclass(frozen=True)
class AdapterOptions:
    """Which adapters to examine, each on tiny random models."""

    types: tuple[str, ...] = ()
    """Names of PEFT's types, such as LORA or PREFIX_TUNING; none: every type."""
    jobs: int = 2
    """Worker processes; 1 examines them in this one."""
    output: str | None = None
    """Folder to write MODELS.md to; the rest of the file stays."""


def run(arguments: list[str]) -> int:
    """Examine the adapters; 1 if one of them does not do what it should, else 0.

    Raises:
        ConfigError: if there is no such type, or the file cannot be written.
    """
    from hiddenkey.compat.adapters import run_adapters, section
    from hiddenkey.compat.document import replace_section

    options = parse(AdapterOptions, "doctor --adapters", arguments)
    if options.jobs < 1:
        raise ConfigError(f"jobs must be at least 1, got {options.jobs}")
    quiet()
    rows = run_adapters(options.types, lambda row: _print(_line(row)), jobs=options.jobs)
    if options.output is not None:
        text = section(rows, _command(arguments))
        replace_section(Path(options.output) / DOCUMENT, SECTION, text)
    return 1 if any(row.verdict == "fails" for row in rows) else 0


def _command(arguments: Sequence[str]) -> str:
    return " ".join(["hiddenkey doctor --adapters", *arguments])


def _line(row: AdapterRow) -> str:
    variant = f" ({row.variant})" if row.variant else ""
    reason = f": {row.reason}" if row.reason else ""
    return f"{row.peft_type}{variant} on {row.model}: {row.verdict}{reason}"


def _print(text: str) -> None:
    standard_console().print(text, highlight=False, markup=False, soft_wrap=True)
