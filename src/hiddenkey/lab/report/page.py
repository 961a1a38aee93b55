"""The page: one HTML file with its style, script, figures and data inside, and no network."""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hiddenkey.lab.present.entries import Grid
from hiddenkey.lab.present.markup import Figure, Picture, load_template, read_asset
from hiddenkey.lab.present.words import count
from hiddenkey.lab.report.comparison_grids import comparison_grid, methods_grid, selection_grid
from hiddenkey.lab.report.grids import cost_grid, gap_grid, rank_grid, search_grid
from hiddenkey.lab.report.records import FIELDS
from hiddenkey.lab.report.tables import Failure, Scope, Tables

_LONGEST_ERROR: Final = 6000
"""Characters of an error on the page, from its end; the CSV file has all of it."""


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, words, tables and figures."""

    id: str
    title: str
    words: tuple[str, ...] = ()
    grids: tuple[Grid, ...] = ()
    folded: tuple[Grid, ...] = ()
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Fault:
    """Failed runs with the same last line of their errors."""

    summary: str
    runs: tuple[Failure, ...]
    error: str
    cut: bool


def render_page(tables: Tables, pictures: Iterable[Picture], title: str) -> str:
    """Return the page as HTML text."""
    script, style = read_asset("report.js"), read_asset("report.css")
    return (
        load_template("report.html").render(
            title=title,
            tables=tables,
            summary=_summary(tables),
            sections=_sections(tables, list(pictures)),
            faults=_faults(tables.failures),
            data=_run_data(tables),
            style=style,
            script=script,
            script_hash=_hash(script),
            verdicts=("better", "worse", "no clear difference", "weak evidence"),
        )
        + "\n"
    )


def _summary(tables: Tables) -> str:
    finished = sum(row.status == "finished" for row in tables.runs)
    parts = [f"{count(len(tables.runs), 'stored run')}: {finished} finished"]
    if tables.failures:
        parts.append(f"{len(tables.failures)} failed")
    searched = sum(row.stage == "search" for row in tables.runs)
    if searched:
        parts.append(f"{searched} of them only to choose settings")
    ended = max((row.ended for row in tables.runs), default="")
    last = ended.replace("T", " ").removesuffix("+00:00")
    return f"{', '.join(parts)}. The last run ended {last} UTC."


def _sections(tables: Tables, pictures: Sequence[Picture]) -> list[Section]:
    sections = []
    for scope in tables.scopes:
        figures = _figures(scope, pictures)
        build = _equal_time if scope.budget == "time" else _equal_steps
        sections += build(scope, tables.baseline, figures)
    if tables.search:
        words = (
            "A search only chooses settings. Its runs are on held-out training examples and are in"
            " none of the tables and figures above.",
        )
        sections.append(Section("search", "Search", words, folded=(search_grid(tables),)))
    return sections


def _figures(scope: Scope, pictures: Sequence[Picture]) -> dict[str, tuple[Figure, ...]]:
    found: dict[str, list[Figure]] = defaultdict(list)
    for picture in pictures:
        plot = picture.plot
        if plot.budget == scope.budget:
            found[plot.kind].append(Figure.of(picture))
    return {kind: tuple(figures) for kind, figures in found.items()}


def _equal_steps(
    scope: Scope, baseline: str, figures: dict[str, tuple[Figure, ...]]
) -> list[Section]:
    several = any(table.selections for table in scope.tasks)
    selected = (selection_grid(scope, baseline),) if several else ()
    unranked = (scope.unranked,) if scope.ranking is None else ()
    ranks = (rank_grid(scope),) if scope.ranking is not None else ()
    sections = [
        Section(
            "comparison",
            "Comparison",
            grids=(
                methods_grid(scope, "last", baseline),
                methods_grid(scope, "best", baseline),
                *selected,
            ),
            folded=(comparison_grid(scope, baseline, others=False),),
        ),
        Section("differences", "Differences", figures=figures.get("differences", ())),
        *(
            Section(kind, title, figures=figures.get(kind, ()))
            for kind, title in (
                ("rate", "Dropout rate"),
                ("rank", "Rank"),
                ("consistency_weight", "Consistency weight"),
            )
        ),
        Section("curves", "Curves", folded=(gap_grid(scope),), figures=figures.get("curves", ())),
        Section("seeds", "Seeds", figures=figures.get("seeds", ())),
        Section(
            "cost", "Cost", grids=(cost_grid(scope, baseline),), figures=figures.get("cost", ())
        ),
        Section("ranks", "Over all tasks", unranked, ranks, figures=figures.get("ranks", ())),
    ]
    return [s for s in sections if s.words or s.grids or s.folded or s.figures]


def _equal_time(
    scope: Scope, baseline: str, figures: dict[str, tuple[Figure, ...]]
) -> list[Section]:
    words = (
        f"In these runs every other method had its steps cut so that it takes as long as"
        f" {baseline}; {baseline}'s own runs are those of above.",
        *((scope.unranked,) if scope.ranking is None else ()),
    )
    kinds = ("differences", "rate", "rank", "consistency_weight", "curves", "seeds", "ranks")
    return [
        Section(
            "equal-time",
            "Equal time",
            words,
            tuple(methods_grid(scope, checkpoint, baseline) for checkpoint in ("last", "best")),
            (
                comparison_grid(scope, baseline, others=False),
                gap_grid(scope),
                cost_grid(scope, baseline),
                *((rank_grid(scope),) if scope.ranking is not None else ()),
            ),
            tuple(figure for kind in kinds for figure in figures.get(kind, ())),
        )
    ]


def _faults(failures: Sequence[Failure]) -> list[Fault]:
    groups: dict[str, list[Failure]] = defaultdict(list)
    for failure in failures:
        groups[failure.summary].append(failure)
    return [
        Fault(
            summary, tuple(runs), runs[0].error[-_LONGEST_ERROR:],
            len(runs[0].error) > _LONGEST_ERROR,
        )
        for summary, runs in groups.items()
    ]  # fmt: skip


def _run_data(tables: Tables) -> dict[str, Any]:
    """All runs, each setting once where runs share it; the page's script builds the table."""
    names = list(dict.fromkeys(name for row in tables.runs for name in row.options))
    return {
        "fields": list(FIELDS),
        "runs": [[_short(getattr(row, name)) for name in FIELDS] for row in tables.runs],
        "options": names,
        "values": [[row.options.get(name) for name in names] for row in tables.runs],
        "shared": dict(tables.shared),
        "environments": [dict(environment) for environment, _ in tables.environments],
        "environment": [row.environment for row in tables.runs],
    }


def _short(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
