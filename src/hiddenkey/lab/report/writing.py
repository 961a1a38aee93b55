"""The report's folder: the page, the figures and the tables, each file written whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from hiddenkey.lab.present.files import writable, write_file, write_plot
from hiddenkey.lab.present.formats import to_csv, to_latex, to_markdown
from hiddenkey.lab.present.markup import Picture
from hiddenkey.lab.report.figures import list_plots
from hiddenkey.lab.report.grids import scope_grids, search_grid
from hiddenkey.lab.report.page import render_page
from hiddenkey.lab.report.records import curves_grid, failures_grid, runs_grid
from hiddenkey.lab.report.tables import Tables

PAGE: Final = "report.html"
FIGURES: Final = "figures"
TABLES: Final = "tables"
_CONTENTS: Final = "contents.json"


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
    with writable(folder):
        return _write_all(tables, folder, title)


def _write_all(tables: Tables, folder: Path, title: str) -> Written:
    before = _read_contents(folder)
    names: list[str] = []
    pictures = []
    for plot in list_plots(tables):
        pictures.append(Picture(plot, write_plot(plot, folder / FIGURES)))
        names += [f"{FIGURES}/{plot.name}.svg", f"{FIGURES}/{plot.name}.png"]
    grids = 0
    for name, text in _table_files(tables):
        names.append(f"{TABLES}/{name}")
        write_file(folder / names[-1], text.encode())
        grids += name.endswith(".csv")
    write_file(folder / PAGE, render_page(tables, pictures, title).encode())
    write_file(folder / _CONTENTS, (json.dumps(sorted(names), indent=1) + "\n").encode())
    for name in before - set(names):
        (folder / name).unlink(missing_ok=True)
    return Written(folder / PAGE, len(pictures), grids)


def _table_files(tables: Tables) -> Iterator[tuple[str, str]]:
    """Yield names and texts of all files of tables."""
    grids = [grid for scope in tables.scopes for grid in scope_grids(scope, tables.baseline)]
    grids += [search_grid(tables)] if tables.search else []
    for grid in grids:
        yield f"{grid.name}.csv", to_csv(grid)
        yield f"{grid.name}.md", to_markdown(grid)
        yield f"{grid.name}.tex", to_latex(grid)
    for grid in (runs_grid(tables), curves_grid(tables), failures_grid(tables)):
        if grid.rows:
            yield f"{grid.name}.csv", to_csv(grid)


def _read_contents(folder: Path) -> set[str]:
    """Return the files of the report that is here; names outside its folders do not count."""
    try:
        names = json.loads((folder / _CONTENTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    known = names if isinstance(names, list) else []
    return {name for name in known if isinstance(name, str) and _is_own(name)}


def _is_own(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return len(parts) == 2 and parts[0] in (FIGURES, TABLES) and parts[1] not in (".", "..")
