"""``hiddenkey report FOLDER``: tables, figures and a page from the runs of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from hiddenkey.cli.arguments import parse
from hiddenkey.cli.terminal import standard_console


@dataclass(frozen=True)
class ReportOptions:
    """A report on the runs that 'hiddenkey compare' stored."""

    folder: str
    """Folder of the comparison."""
    baseline: str = "lora"
    """Method that the others are compared with."""
    output: str | None = None
    """Folder of the report; none: FOLDER/report."""


def run(arguments: list[str]) -> int:
    """Write the report and return the exit status."""
    options = parse(ReportOptions, "report", arguments, positional="folder")
    from hiddenkey.lab.comparison.record import read_records
    from hiddenkey.lab.report import tabulate, write_report

    folder = Path(options.folder)
    tables = tabulate(read_records(folder), options.baseline)
    output = folder / "report" if options.output is None else Path(options.output)
    written = write_report(tables, output, title=folder.resolve().name)
    console = standard_console()
    for scope in tables.scopes:
        heading = "equal steps" if scope.budget == "steps" else "equal time"
        for table in scope.tasks:
            _say(console, f"{table.task.label}, {heading}: {table.verdict.headline}")
    if tables.failures:
        _say(console, f"{len(tables.failures)} of {len(tables.runs)} runs failed")
    _say(
        console,
        f"page: {written.page}   {written.figures} figures and {written.tables} tables beside it",
    )
    return 0


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
