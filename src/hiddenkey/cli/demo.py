"""``hiddenkey demo``: the packaged plan ``recipes/demo.yaml``, and what came out in a few lines."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hiddenkey.cli import compare
from hiddenkey.cli.commands import COMMANDS
from hiddenkey.cli.options import DemoOptions
from hiddenkey.cli.terminal import grid_table, say, standard_console
from hiddenkey.errors import ConfigError
from hiddenkey.lab.evidence.axes import Checkpoint
from hiddenkey.lab.evidence.costs import read_step_times
from hiddenkey.lab.evidence.record import read_records
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.report import Tables, tabulate
from hiddenkey.lab.report.comparison_grids import AFTER
from hiddenkey.lab.report.grids import cost_grid, gap_grid
from hiddenkey.lab.report.verdicts import effect_of

RECIPE: Final = "demo"
_MEASURES: Final[tuple[tuple[Checkpoint, bool], ...]] = (
    ("last", True),
    ("best", True),
    ("last", False),
)
"""Checkpoint, and whether it is the main metric or the loss."""

_MOST_SEEDS: Final = 1000


def run(options: DemoOptions) -> int:
    """Run the demonstration and return the exit status: 1 if a run failed."""
    started = time.perf_counter()
    if status := compare.run(plan_of(options)):
        return status
    folder = Path(options.output)
    tables = tabulate(read_records(folder), timed=read_step_times(folder))
    console = standard_console()
    for scope in tables.scopes:
        console.print(grid_table(gap_grid(scope)))
        console.print(grid_table(cost_grid(scope, tables.baseline)))
    for sentence in differences(tables):
        say(console, sentence)
    report = folder / "report"
    pictures = ", ".join(map(str, sorted(report.glob("figures/curves*.png"))))
    say(console, f"curves: {pictures}   numbers: {report}/tables/comparison.csv")
    say(console, f"{time.perf_counter() - started:.0f} s")
    return 0


def plan_of(options: DemoOptions) -> Plan:
    """Return the recipe's plan with the demonstration's options.

    Raises:
        ConfigError: if it has no seed, or more than anybody runs.
    """
    if not 1 <= options.seeds <= _MOST_SEEDS:
        rule = f"seeds must be from 1 to {_MOST_SEEDS}, got {options.seeds}"
        raise ConfigError(f"{rule}; 5 take about five minutes")
    plan: Plan = COMMANDS["compare"].read("demo", [RECIPE])
    return dataclasses.replace(
        plan,
        seeds=tuple(range(options.seeds)),
        common={**plan.common, "epochs": options.epochs},
        output=options.output,
        workers=options.workers,
    )


def differences(tables: Tables) -> Iterator[str]:
    """Yield each method's differences to the baseline, paired by seed, as sentences."""
    for scope in tables.scopes:
        for table in scope.tasks:
            for checkpoint, main in _MEASURES:
                for configuration in scope.configurations:
                    cell = table.find(configuration, checkpoint, main=main)
                    if cell is not None and cell.comparison is not None:
                        yield (
                            f"{configuration.label} − {tables.baseline}, {cell.measure.name}"
                            f" {AFTER[checkpoint]}: {cell.comparison.verdict},"
                            f" {effect_of(cell.comparison)}"
                        )
