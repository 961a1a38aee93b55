"""What one dropout rate for all tasks loses."""

from __future__ import annotations

from pathlib import Path

from hiddenkey.cli.terminal import say, standard_console
from hiddenkey.files import plain
from hiddenkey.lab.present.canvas import name_plots
from hiddenkey.lab.present.entries import Grid
from hiddenkey.lab.present.files import page_folder
from hiddenkey.lab.present.markup import Section
from rate_transfer.figures import transfer_plots
from rate_transfer.options import TransferOptions
from rate_transfer.rate_tables import tabulate_rates
from rate_transfer.tables import (
    READING,
    rates_grid,
    recommendation,
    rules_grid,
    tasks_grid,
)
from rate_transfer.transfer import Transfer, study_transfer
from study_pages import markdown_page, show_grid
from study_records import read_finished

NAME = "transfer"


def run(options: TransferOptions) -> int:
    """Read the records, print the tables and write the files; return the exit status."""
    records = read_finished(options.folders, options.stage)
    table = tabulate_rates(records, options.method, options.baseline, options.tasks)
    found = study_transfer(table)
    grids = (rules_grid(found), tasks_grid(found), rates_grid(found))
    console = standard_console()
    for grid in grids:
        show_grid(console, grid)
    for sentence in recommendation(found):
        say(console, sentence)
    page = _write(options, found, grids)
    say(console, f"tables, values and picture: {page}")
    return 0


def _write(options: TransferOptions, found: Transfer, grids: tuple[Grid, ...]) -> Path:
    values = {"folders": list(options.folders), "stage": options.stage, **plain(found)}
    with page_folder(Path(options.output or Path(options.folders[0], "analysis"))) as out:
        out.write_values(f"{NAME}.json", values)
        pictures = out.draw(name_plots(transfer_plots(found)))
        words = (*recommendation(found), READING)
        sections = [Section(words=words, pictures=tuple(pictures)), Section(grids=grids)]
        title = f"Does {found.method}'s rate transfer?"
        return out.write(f"{NAME}.md", markdown_page(title, sections))
