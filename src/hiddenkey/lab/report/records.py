"""Long grids that are only written as CSV: one row per run, per failure and per curve's point."""

from __future__ import annotations

from hiddenkey.lab.present.entries import Grid, make_grid
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
            *(getattr(row, name) for name in FIELDS),
            *(row.options.get(name, tables.shared.get(name)) for name in options),
            *(tables.environments[row.environment][0].get(name) for name in names),
        ]
        for row in tables.runs
    ]
    return make_grid("runs", "All runs", columns, rows)


def failures_grid(tables: Tables) -> Grid:
    """One row for each failed run, with its whole error."""
    columns = (
        "id", "task", "configuration", "seed", "stage", "budget", "attempts", "ended", "error"
    )  # fmt: skip
    rows = [[getattr(failure, name) for name in columns] for failure in tables.failures]
    return make_grid("failed", "Failed runs", columns, rows)


def curves_grid(tables: Tables) -> Grid:
    """One row for each point of each curve."""
    columns = (
        "budget", "task", "configuration", "metric", "examples", "step", "mean", "sd", "runs"
    )  # fmt: skip
    rows = [
        (scope.budget, table.task.label, curve.arm.label, curve.name, curve.part,
         point.step, point.spread.mean, point.spread.deviation, point.spread.count)
        for scope in tables.scopes
        for table in scope.tasks
        for curve in table.curves
        for point in curve.points
    ]  # fmt: skip
    return make_grid("curves", "Curves", columns, rows)
