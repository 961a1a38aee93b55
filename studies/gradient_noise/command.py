"""The study's command: its settings, what it prints and the files that it writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from gradient_noise.options import NAME, GradientNoiseOptions
from hiddenkey.cli.terminal import grid_table, say, standard_console
from hiddenkey.lab.present.canvas import name_plots
from hiddenkey.lab.present.files import page_folder
from hiddenkey.lab.present.markup import Section
from hiddenkey.quiet import quiet
from study_pages import markdown_page

if TYPE_CHECKING:
    from gradient_noise.measurement import Setting
    from hiddenkey.lab.run.preparation import Prepared


def run(options: GradientNoiseOptions) -> int:
    """Run the analysis, write its files and return the exit status."""
    quiet()
    from gradient_noise.measurement import analyse, prepare_analysis

    prepared = prepare_analysis(options)
    console = standard_console()
    say(console, _plan(options))

    def measured(found: Setting) -> None:
        place = f"step {found.point.step}, {found.pattern}, rate {found.rate:g}"
        say(console, f"{place}: outputs differ by {found.difference / found.largest:.1e}")

    settings = analyse(options, prepared, measured)
    say(console, f"table, values and pictures: {_write(console, options, prepared, settings)}")
    return 0


def _plan(options: GradientNoiseOptions) -> str:
    return (
        f"{options.train_steps} steps of LoRA; at {len(options.points)} points, for"
        f" {len(options.patterns) * len(options.rates)} patterns and rates, 2 methods x"
        f" {options.batches} batches x {options.masks} masks"
    )


def _write(
    console: Console,
    options: GradientNoiseOptions,
    prepared: Prepared,
    settings: Sequence[Setting],
) -> Path:
    from gradient_noise.figures import list_noise_plots
    from gradient_noise.record import READING, to_grid, to_record, to_row
    from hiddenkey.lab.run.environment import environment

    rows = [to_row(setting) for setting in settings]
    grid = to_grid(rows)
    console.print(grid_table(grid, details=False))
    record = to_record(options, settings, prepared.data_record(), environment())
    title = f"Gradient noise under DropKey and DropAttention: {prepared.task.name}, {options.model}"
    with page_folder(Path(options.output)) as out:
        out.write_values(f"{NAME}.json", record)
        pictures = out.draw(name_plots(list_noise_plots(rows, prepared.task.name)))
        section = Section(words=(READING,), grids=(grid,), pictures=tuple(pictures))
        return out.write(f"{NAME}.md", markdown_page(title, [section]))
