"""The figures of a report: they read the tables and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from hiddenkey.lab.present.canvas import Palette, Plot, name_plots, place
from hiddenkey.lab.report.figures.lines import curve_plots, sweep_plots
from hiddenkey.lab.report.figures.points import cost_plots, rank_plots, seed_plots
from hiddenkey.lab.report.tables import Tables

__all__ = ["list_plots"]


def list_plots(tables: Tables) -> list[Plot]:
    """Return the figures of a report, with names that no two share."""
    return name_plots(_plots(tables))


def _plots(tables: Tables) -> Iterator[Plot]:
    methods = dict.fromkeys(
        configuration.method for scope in tables.scopes for configuration in scope.configurations
    )
    palette = Palette(tuple(methods), tables.baseline)
    for scope in tables.scopes:
        for table in scope.tasks:
            for plot in (
                *seed_plots(scope, table, palette),
                *sweep_plots(table, palette),
                *curve_plots(scope, table, palette),
                *cost_plots(scope, table, palette),
            ):
                task = table.task.label
                title = f"{place(scope.budget, task)}: {plot.title}"
                yield dataclasses.replace(plot, budget=scope.budget, task=task, title=title)
        yield from rank_plots(scope)
