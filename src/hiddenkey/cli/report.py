"""``hiddenkey report FOLDER``: tables, figures and a page from the runs of a comparison."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

from rich.console import Console

from hiddenkey.cli.options import ReportOptions
from hiddenkey.cli.terminal import say, standard_console


def run(options: ReportOptions) -> int:
    """Write the report and return the exit status."""
    folder = Path(options.folder)
    output = None if options.output is None else Path(options.output)
    write(standard_console(), folder, options.baseline, output)
    return 0


def write(console: Console, folder: Path, baseline: str, output: Path | None = None) -> None:
    """Write the report on a comparison's folder and print each task's verdict.

    Args:
        console: where to print.
        folder: folder of the comparison.
        baseline: method that the others are compared with.
        output: folder of the report; ``None`` for ``report`` in the comparison's.

    Raises:
        ConfigError: if the records are broken, or there is none of the baseline.
    """
    from hiddenkey.lab.evidence.costs import read_step_times
    from hiddenkey.lab.evidence.record import read_records
    from hiddenkey.lab.plans.stored import read_plan
    from hiddenkey.lab.report import tabulate, write_report

    tables = tabulate(read_records(folder), baseline, read_step_times(folder), read_plan(folder))
    written = write_report(tables, output or folder / "report", title=folder.resolve().name)
    for scope in tables.scopes:
        heading = "step-matched" if scope.budget == "steps" else "time-matched"
        for table in scope.tasks:
            say(console, f"{table.task.label}, {heading}: {table.verdict.headline}")
            for words in filter(None, (table.lead, table.advice.words)):
                say(console, words)
            for code in table.advice.code:
                say(console, f"in {code.place}:\n{indent(code.text, '    ')}")
    if tables.failures:
        say(console, f"{len(tables.failures)} of {len(tables.runs)} runs failed")
    say(
        console,
        f"page: {written.page}   {written.figures} figures and {written.tables} tables beside it",
    )
