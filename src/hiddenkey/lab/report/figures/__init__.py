"""The figures of a report: they read the tables and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from hiddenkey.lab.present.canvas import Palette, Plot, name_plots
from hiddenkey.lab.report.figures.lines import curve_plots, sweep_plots
from hiddenkey.lab.report.figures.points import cost_plots, rank_plots, seed_plots
from hiddenkey.lab.report.tables import Tables

__all__ = ["list_plots"]


def list_plots(tables: Tables) -> list[Plot]:
    """Return the figures of a report, with names that no two share."""
    return name_plots(_plots(tables))


def _plots(tables: Tables) -> Iterator[Plot]:
    methods = dict.fromkeys(arm.method for scope in tables.scopes for arm in scope.arms)
    palette = Palette(tuple(methods), tables.baseline)
    for scope in tables.scopes:
        for table in scope.tasks:
            yield from seed_plots(scope, table, palette)
            yield from sweep_plots(scope, table, palette)
            yield from curve_plots(scope, table, palette)
            yield from cost_plots(scope, table, palette)
        yield from rank_plots(scope)
