"""Long grids that are only written as CSV: one row per run, per failure and per curve's point."""

from __future__ import annotations

import json
from typing import Any

from hiddenkey.lab.present.entries import Entry, Grid, Value, make_grid
from hiddenkey.lab.report.tables import FIELDS, Tables


def runs_grid(tables: Tables) -> Grid:
    """One row for each run, with all of its options and its environment."""
    options = list(
        dict.fromkeys([*tables.shared, *(n for row in tables.runs for n in row.options)])
    )
    names = list(dict.fromkeys(name for known, _ in tables.environments for name in known))
    columns = [
        *FIELDS, *(f"option {name}" for name in options), *(f"environment {n}" for n in names)
    ]  # fmt: skip
    rows = [
        [
            *(_plain(getattr(row, name)) for name in FIELDS),
            *(_plain(row.options.get(name, tables.shared.get(name))) for name in options),
            *(_plain(tables.environments[row.environment][0].get(name)) for name in names),
        ]
        for row in tables.runs
    ]
    return make_grid("runs", "All runs", columns, rows)


def failures_grid(tables: Tables) -> Grid:
    """One row for each failed run, with its whole error."""
    columns = (
        "id",
        "task",
        "configuration",
        "seed",
        "stage",
        "budget",
        "attempts",
        "ended",
        "error",
    )
    rows = [[_plain(getattr(failure, name)) for name in columns] for failure in tables.failures]
    return make_grid("failed", "Failed runs", columns, rows)


def curves_grid(tables: Tables) -> Grid:
    """One row for each point of each curve."""
    columns = (
        "budget",
        "task",
        "configuration",
        "metric",
        "examples",
        "step",
        "mean",
        "sd",
        "runs",
    )
    rows = [
        list(
            map(
                _plain,
                (scope.budget, table.task.label, curve.arm.label, curve.name, curve.part,
                 point.step, point.spread.mean, point.spread.deviation, point.spread.count),
            )
        )
        for scope in tables.scopes
        for table in scope.tasks
        for curve in table.curves
        for point in curve.points
    ]  # fmt: skip
    return make_grid("curves", "Curves", columns, rows)


def _plain(value: Any) -> Entry:
    plain: Value
    if value is None or isinstance(value, bool):
        plain = None if value is None else str(value).lower()
    elif isinstance(value, str | int | float):
        plain = value
    else:
        plain = json.dumps(value, sort_keys=True)
    return Entry("" if plain is None else str(plain), plain)
