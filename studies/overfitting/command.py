"""Generalisation gap, calibration and confidence."""

from __future__ import annotations

from pathlib import Path

from hiddenkey.cli.terminal import say, standard_console
from hiddenkey.lab.evidence.configurations import require_method
from hiddenkey.lab.present.canvas import name_plots
from hiddenkey.lab.present.files import page_folder
from hiddenkey.lab.present.markup import Section
from overfitting.figures import overfitting_plots
from overfitting.options import OverfittingOptions
from overfitting.tables import READING, headline, short_grid, watch_grid
from overfitting.watch import TaskWatch, watch_overfitting
from study_pages import markdown_page, show_grid
from study_records import read_finished

NAME = "overfitting"


def run(options: OverfittingOptions) -> int:
    """Read the records, print a table for each task, write the files; return the exit status."""
    records = read_finished(options.folders)
    for method in options.methods:
        require_method("methods", method, records)
    watches = watch_overfitting(records, options.baseline, options.methods)
    console = standard_console()
    for watch in watches:
        show_grid(console, short_grid(watch, options.baseline))
    say(
        console,
        f"{options.baseline}: means; others: differences to it, paired by seed, or (means) without"
        " pairs. *: the interval excludes 0, after Holm's correction.",
    )
    page = _write(options, watches)
    say(console, f"table, values and pictures: {page}")
    return 0


def _write(options: OverfittingOptions, watches: tuple[TaskWatch, ...]) -> Path:
    values = {
        "baseline": options.baseline,
        "folders": list(options.folders),
        "tasks": watches,
    }
    with page_folder(Path(options.output or Path(options.folders[0], "analysis"))) as out:
        out.write_values(f"{NAME}.json", values)
        pictures = out.draw(name_plots(overfitting_plots(watches, options.baseline)))
        sections = [Section(words=(READING,))]
        sections += [
            Section(
                words=(headline(watch),),
                grids=(watch_grid(watch),),
                pictures=tuple(p for p in pictures if p.plot.task == watch.task.label),
            )
            for watch in watches
        ]
        return out.write(f"{NAME}.md", markdown_page("Overfitting monitor", sections))
