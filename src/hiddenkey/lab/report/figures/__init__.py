"""The figures of a report: they read the tables and nothing else."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from itertools import chain, count

from hiddenkey.lab.report.figures.canvas import Palette, Plot, inline, render, standalone
from hiddenkey.lab.report.figures.curves import curve_plots
from hiddenkey.lab.report.figures.overview import cost_plots, rank_plots
from hiddenkey.lab.report.figures.points import seed_plots
from hiddenkey.lab.report.figures.sweeps import sweep_plots
from hiddenkey.lab.report.tables import Tables

__all__ = ["Plot", "inline", "list_plots", "name_plots", "render", "standalone"]


def list_plots(tables: Tables) -> list[Plot]:
    """Return the figures of a report, with names that no two share."""
    return name_plots(_plots(tables))


def name_plots(listed: Iterable[Plot]) -> list[Plot]:
    """Return figures under the names of their files, which no two share."""
    plots: dict[str, Plot] = {}
    for plot in listed:
        parts = [plot.name, plot.task, "equal time" if plot.budget == "time" else ""]
        name = re.sub(r"[^a-z0-9]+", "_", " ".join(parts).lower()).strip("_")[:80]
        unique = next(u for u in chain([name], (f"{name}_{n}" for n in count(2))) if u not in plots)
        plots[unique] = dataclasses.replace(plot, name=unique)
    return list(plots.values())


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
