"""The page: one HTML file with its style, script, figures and data inside, and no network."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from hiddenkey.lab.present.entries import Grid
from hiddenkey.lab.present.markup import Picture, Section, read_asset
from hiddenkey.lab.present.markup import render_page as render
from hiddenkey.lab.present.words import count
from hiddenkey.lab.report.grids import scope_grids, search_grid
from hiddenkey.lab.report.tables import RunRow, Scope, Tables

_PACKAGE: Final = "hiddenkey.lab.report"
_LEADS: Final = 4
_LONGEST_ERROR: Final = 6000
"""Characters of an error on the page, from its end; the CSV file has all of it."""


def render_page(tables: Tables, pictures: Iterable[Picture], title: str) -> str:
    """Return the page as HTML text."""
    return render(
        "report.html",
        _PACKAGE,
        script=read_asset("page.js"),
        title=title,
        tables=tables,
        summary=_summary(tables),
        leads=_leads(tables),
        sections=_sections(tables, list(pictures)),
        faults=_faults(tables.failures),
        longest_error=_LONGEST_ERROR,
        data=_run_data(tables),
        verdicts=("better", "worse", "no clear difference", "inconclusive"),
    )


def _summary(tables: Tables) -> str:
    finished = sum(row.record.status == "finished" for row in tables.runs)
    parts = [f"{count(len(tables.runs), 'stored run')}: {finished} finished"]
    if tables.failures:
        parts.append(f"{len(tables.failures)} failed")
    if diverged := sum(row.record.counts_as_worst for row in tables.runs):
        parts.append(f"{diverged} diverged in a search")
    searched = sum(row.record.stage == "search" for row in tables.runs)
    if searched:
        parts.append(f"{searched} of them only to choose options")
    ended = max((row.record.ended for row in tables.runs), default="")
    last = ended.replace("T", " ").removesuffix("+00:00")
    return f"{', '.join(parts)}." + (f" The last run ended {last} UTC." if last else "")


def _leads(tables: Tables) -> list[str]:
    """The first lines of the page: what came out for the first few tasks."""
    every = [table.lead for scope in tables.scopes for table in scope.tasks if table.lead]
    more = [f"And {len(every) - _LEADS} more below."] if len(every) > _LEADS else []
    return [*every[:_LEADS], *more]


def _sections(tables: Tables, pictures: Sequence[Picture]) -> list[Section]:
    sections = []
    for scope in tables.scopes:
        own = [picture for picture in pictures if picture.plot.budget == scope.budget]
        build = _time_matched if scope.budget == "time" else _step_matched
        sections += build(scope, tables.baseline, own)
    if tables.search:
        words = (
            "A search only chooses options. Its runs are on held-out training examples and are in"
            " none of the tables and figures above.",
        )
        sections.append(Section("search", "Search", words, folded=(search_grid(tables),)))
    return sections


def _step_matched(scope: Scope, baseline: str, pictures: Sequence[Picture]) -> list[Section]:
    found = scope_grids(scope, baseline, others=False)
    sections = [
        Section(
            "comparison", "Comparison",
            grids=_some(found, "last", "best", "selected"), folded=_some(found, "numbers"),
        ),
        Section("differences", "Differences"),
        Section("rate", "Dropout rate"),
        Section("rank", "Rank"),
        Section("consistency_weight", "Consistency weight"),
        Section("curves", "Curves", folded=_some(found, "gap")),
        Section("seeds", "Seeds"),
        Section("cost", "Cost", grids=_some(found, "cost")),
        Section("ranks", "Over all tasks", _unranked(scope), _some(found, "ranks")),
    ]  # fmt: skip
    full = [dataclasses.replace(s, pictures=_of_kind(pictures, s.id)) for s in sections]
    return [s for s in full if s.words or s.grids or s.folded or s.pictures]


def _time_matched(scope: Scope, baseline: str, pictures: Sequence[Picture]) -> list[Section]:
    found = scope_grids(scope, baseline, others=False)
    words = (
        f"In these runs every other method had its steps cut so that it takes as long as"
        f" {baseline}; {baseline}'s own runs are those of above.",
        *_unranked(scope),
    )
    kinds = ("differences", "rate", "rank", "consistency_weight", "curves", "seeds", "ranks")
    shown = tuple(picture for kind in kinds for picture in _of_kind(pictures, kind))
    folded = _some(found, "numbers", "gap", "cost", "ranks")
    open_grids = _some(found, "last", "best")
    return [Section("equal-time", "Time-matched", words, open_grids, folded, shown)]


def _some(grids: Mapping[str, Grid], *names: str) -> tuple[Grid, ...]:
    return tuple(grids[name] for name in names if name in grids)


def _of_kind(pictures: Sequence[Picture], kind: str) -> tuple[Picture, ...]:
    return tuple(picture for picture in pictures if picture.plot.kind == kind)


def _unranked(scope: Scope) -> tuple[str, ...]:
    return (scope.unranked,) if scope.ranking is None else ()


def _faults(failures: Sequence[RunRow]) -> dict[str, list[RunRow]]:
    """Failed runs by the last line of their errors."""
    groups: dict[str, list[RunRow]] = defaultdict(list)
    for failure in failures:
        groups[failure.record.reason or "no error was stored"].append(failure)
    return groups


def _run_data(tables: Tables) -> dict[str, Any]:
    """All runs, each option once where runs share it; the page's script builds the table."""
    names = [name for row in tables.runs[:1] for name in row.options]
    return {
        "fields": [name for row in tables.runs[:1] for name in row.values],
        "runs": [list(map(_short, row.values.values())) for row in tables.runs],
        "options": names,
        "values": [list(row.options.values()) for row in tables.runs],
        "shared": dict(tables.shared),
        "environments": [dict(environment) for environment, _ in tables.environments],
        "environment": [row.environment for row in tables.runs],
    }


def _short(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
