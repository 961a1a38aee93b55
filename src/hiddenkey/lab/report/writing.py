"""The report's folder: the page, the figures and the tables, each file written whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hiddenkey.lab.present.files import FIGURES, page_folder
from hiddenkey.lab.report.figures import list_plots
from hiddenkey.lab.report.grids import scope_grids, search_grid
from hiddenkey.lab.report.history import curves_grid, failures_grid, runs_grid
from hiddenkey.lab.report.page import render_page
from hiddenkey.lab.report.tables import Tables

PAGE: Final = "report.html"


@dataclass(frozen=True)
class Written:
    """What a report consists of.

    Attributes:
        page: the page.
        figures: number of figures, each as PNG and as SVG.
        tables: number of tables.
    """

    page: Path
    figures: int
    tables: int


def write_report(tables: Tables, folder: Path, title: str) -> Written:
    """Write the page, ``figures/`` and ``tables/``.

    Each file appears whole. Files of an earlier report that this one does not have are removed,
    and no others.

    Args:
        tables: what to say.
        folder: where to; made if it is not there.
        title: heading of the page.

    Raises:
        ConfigError: if the folder cannot be written.
    """
    grids = [
        grid for scope in tables.scopes for grid in scope_grids(scope, tables.baseline).values()
    ]
    grids += [search_grid(tables)] if tables.search else []
    lists = (runs_grid(tables), curves_grid(tables), failures_grid(tables))
    long = [grid for grid in lists if grid.rows]
    with page_folder(folder) as out:
        pictures = out.draw(list_plots(tables), FIGURES)
        for grid in grids:
            out.tabulate(grid)
        for grid in long:
            out.tabulate(grid, ["csv"])
        page = out.write(PAGE, render_page(tables, pictures, title))
        out.remove_older()
    return Written(page, len(pictures), len(grids) + len(long))
