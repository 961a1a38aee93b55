"""Long grids that are only written as CSV: one row per run, per failure and per curve's point."""

from __future__ import annotations

from hiddenkey.lab.present.entries import Grid, make_grid
from hiddenkey.lab.report.tables import Tables


def runs_grid(tables: Tables) -> Grid:
    """One row for each run, with all of its options and its environment."""
    names = [*tables.shared, *(name for row in tables.runs[:1] for name in row.options)]
    machine = dict.fromkeys(name for known, _ in tables.environments for name in known)
    columns = [
        *(name for row in tables.runs[:1] for name in row.values),
        *(f"option {name}" for name in names),
        *(f"environment {name}" for name in machine),
    ]
    rows = [
        [
            *row.values.values(),
            *(row.record.options.get(name) for name in names),
            *(row.record.environment.get(name) for name in machine),
        ]
        for row in tables.runs
    ]
    return make_grid("runs", "All runs", columns, rows)


def failures_grid(tables: Tables) -> Grid:
    """One row for each failed run, with its whole error."""
    columns = ("id", "task", "configuration", "seed", "stage", "budget", "attempts", "ended")
    rows = [
        [*(row.values[name] for name in columns), (row.record.error or "").strip()]
        for row in tables.failures
    ]
    return make_grid("failed", "Failed runs", (*columns, "error"), rows)


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
