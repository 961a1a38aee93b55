"""What the library does with every adapter that PEFT has."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hiddenkey.cli.terminal import say, standard_console
from hiddenkey.errors import ConfigError
from hiddenkey.quiet import quiet
from model_tables.adapters.checks import AdapterRow
from model_tables.adapters.sweep import run_adapters, section
from model_tables.document import DOCUMENT, command_line, replace_section
from model_tables.options import AdaptersOptions

SECTION: Final = "adapters"


def run(options: AdaptersOptions) -> int:
    """Examine the adapters; 1 if one of them does not do what it should, else 0.

    Raises:
        ConfigError: if there is no such type, or the file cannot be written.
    """
    if options.jobs < 1:
        raise ConfigError(f"jobs must be at least 1, got {options.jobs}")
    quiet()
    console = standard_console()
    rows = run_adapters(options.types, lambda row: say(console, _line(row)), jobs=options.jobs)
    if options.output is not None:
        text = section(rows, command_line("adapters", options))
        replace_section(Path(options.output) / DOCUMENT, SECTION, text)
    return 1 if any(row.verdict == "fails" for row in rows) else 0


def _line(row: AdapterRow) -> str:
    variant = f" ({row.variant})" if row.variant else ""
    reason = f": {row.reason}" if row.reason else ""
    return f"{row.peft_type}{variant} on {row.model}: {row.verdict}{reason}"
