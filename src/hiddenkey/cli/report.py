"""``hiddenkey report FOLDER``: tables, figures and a page from the runs of a comparison."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from rich.console import Console

from hiddenkey.cli.options import ReportOptions
from hiddenkey.cli.terminal import say, standard_console
from hiddenkey.errors import ConfigError, suggestion
from hiddenkey.lab.run.limits import limit_faults

if TYPE_CHECKING:
    from hiddenkey.lab.report.tables import Tables


def run(options: ReportOptions) -> int:
    """Write the report and return the exit status."""
    if faults := limit_faults(options):
        raise ConfigError(faults)
    path = Path(options.folder)
    if not os.path.exists(path):  # which, unlike Path's, is quiet about names that are too long
        raise ConfigError(f"{path}: does not exist; check the path")
    output = None if options.output is None else Path(options.output)
    if path.is_file():
        output = output or path.with_name(f"{path.stem}-report")
        _write_table(standard_console(), path, options, output)
        return 0
    if options.metric is not None or options.lower_is_better is not None:
        raise ConfigError(
            "metric and lower-is-better belong to a file of results, got them with a folder; leave"
            " them out"
        )
    write(standard_console(), path, options.baseline, output, options.margin)
    return 0


def write(
    console: Console,
    folder: Path,
    baseline: str,
    output: Path | None = None,
    margin: float | None = None,
) -> None:
    """Write the report on a comparison's folder and print each task's verdict.

    Args:
        console: where to print.
        folder: folder of the comparison.
        baseline: method that the others are compared with.
        output: folder of the report; ``None`` for ``report`` in the comparison's.
        margin: smallest difference of the main metric that matters; ``None`` for the plan's.

    Raises:
        ConfigError: if the records are broken, or there is none of the baseline.
    """
    from hiddenkey.lab.evidence.costs import read_step_times
    from hiddenkey.lab.evidence.record import read_records
    from hiddenkey.lab.plans.stored import read_plan
    from hiddenkey.lab.report import tabulate

    timed, plan = read_step_times(folder), read_plan(folder)
    tables = tabulate(read_records(folder), baseline, timed, plan, margin)
    _write(console, tables, output or folder / "report", folder.resolve().name)


def _write_table(console: Console, path: Path, options: ReportOptions, output: Path) -> None:
    """Write the report on a table of somebody else's results."""
    from hiddenkey.lab.report import tabulate
    from hiddenkey.lab.results.table import read_results

    records = read_results(path, options.metric, lower=options.lower_is_better)
    names = list(dict.fromkeys(str(record.options["method"]) for record in records))
    if options.baseline not in names:
        hint = suggestion(options.baseline, names) or "; name one by --baseline"
        raise ConfigError(
            f"baseline must be a configuration of the file ({', '.join(names)}), got"
            f" {options.baseline!r}{hint}"
        )
    _write(console, tabulate(records, options.baseline, margin=options.margin), output, path.stem)


def _write(console: Console, tables: Tables, output: Path, title: str) -> None:
    from hiddenkey.lab.present.words import failed_alike
    from hiddenkey.lab.report import write_report

    written = write_report(tables, output, title=title)
    for scope in tables.scopes:
        for table in scope.tasks:
            say(console, f"{table.task.label}, {table.matching}: {table.verdict.headline}")
            for words in filter(None, (table.lead, table.advice.words)):
                say(console, words)
            for code in table.advice.code:
                say(console, f"in {code.place}:\n{indent(code.text, '    ')}")
    if tables.failures:
        say(console, f"{len(tables.failures)} of {len(tables.runs)} runs failed")
        rows = [(row.record.reason, row.values) for row in tables.failures]
        told = ((why, f"{v['task']}, {v['configuration']}", v["seed"]) for why, v in rows)
        for words in failed_alike(told):
            say(console, words)
    say(
        console,
        f"page: {written.page}   {written.figures} figures and {written.tables} tables beside it",
    )
