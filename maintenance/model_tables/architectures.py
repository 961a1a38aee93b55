"""What a method does on every architecture that transformers has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from hiddenkey.cli.terminal import print_json, say, standard_console
from hiddenkey.errors import ConfigError, not_one_of
from hiddenkey.quiet import quiet
from model_tables.document import DOCUMENT, command_line, replace_section, write_whole
from model_tables.examine import sweep
from model_tables.model_types import TASKS, choose
from model_tables.options import ArchitecturesOptions
from model_tables.page import SECTION, render
from model_tables.record import Record, Row

RECORD: Final = "models.json"
_SOUND: Final = ("pass", "refused", "cannot be built")


def run(options: ArchitecturesOptions) -> int:
    """Examine the types; 1 if one of them attaches without passing, else 0."""
    if faults := _faults(options):
        raise ConfigError(faults)
    quiet()
    chosen = choose(options.types, options.tasks)  # type: ignore[arg-type]  # checked just now
    rows, console = [], standard_console()
    for row in sweep(chosen, jobs=options.jobs, limit=options.limit):
        rows.append(row)
        if not options.json:
            say(console, f"{len(rows):>3} of {len(chosen)}  {_line(row)}")
    record = Record.of(rows, command_line("architectures", options))
    if options.output is not None:
        _write(record, Path(options.output))
    if options.json:
        print_json(record.to_dict(), indent=1)
    else:
        say(console, _summary(record))
    return 0 if all(row.verdict in _SOUND for row in rows) else 1


def _faults(options: ArchitecturesOptions) -> list[str]:
    faults = [not_one_of("tasks", task, TASKS) for task in options.tasks if task not in TASKS]
    if options.jobs < 1:
        faults.append(f"jobs must be at least 1, got {options.jobs}")
    if not options.limit > 0:
        faults.append(f"limit must be more than 0 seconds, got {options.limit:g}")
    return faults


def _write(record: Record, folder: Path) -> None:
    # one row a line, so that a change of one type is a change of one line
    plain = record.to_dict()
    rows = ",\n".join(json.dumps(row) for row in plain.pop("rows"))
    head = json.dumps(plain, indent=1)[:-2]
    write_whole(folder / RECORD, f'{head},\n "rows": [\n{rows}\n]}}\n')
    replace_section(folder / DOCUMENT, SECTION, render(record))


def _line(row: Row) -> str:
    reason = f": {row.reason}" if row.reason else ""
    return f"{row.type} ({row.task}, {row.seconds:.1f} s) {row.verdict}{reason}"


def _summary(record: Record) -> str:
    passed, built = record.text_share()
    counts = ", ".join(f"{count} {verdict}" for verdict, count in record.counts().items())
    return f"{counts}; {passed} of {built} text types that can be built pass"
