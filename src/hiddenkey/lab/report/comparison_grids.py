"""Configurations against tasks as grids: paper-style, with selection, and with every number."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from hiddenkey.lab.evidence.axes import Checkpoint, RunConfiguration
from hiddenkey.lab.evidence.cells import LOSS, Cell
from hiddenkey.lab.evidence.comparisons import EFFECT_SIZE
from hiddenkey.lab.evidence.sweeps import Selection
from hiddenkey.lab.present.entries import Entry, Grid, make_grid, numeric, spread
from hiddenkey.lab.present.words import MISSING, count, interval, signed
from hiddenkey.lab.report.tables import Scope, TaskTable

AFTER: Final = {"last": "after the last step", "best": "at each run's best evaluation"}
"""Checkpoints in words."""

BEST_IS_CHOSEN: Final = (
    "The best evaluation is chosen on the evaluation examples themselves, so these numbers are"
    " better than new examples would give, for the baseline as for the rest."
)
"""The caution beside every number of the best checkpoint."""


def methods_grid(scope: Scope, checkpoint: Checkpoint, baseline: str) -> Grid:
    """Configurations × tasks, as papers print it."""
    tables = [table for table in scope.tasks if table.task.metric]
    best = {table.task: _best_mean(table, checkpoint) for table in tables}
    rows = [
        [
            configuration.label,
            *(_result(t.find(configuration, checkpoint), best[t.task]) for t in tables),
        ]
        for configuration in scope.configurations
    ]
    notes = [
        "Mean ± standard deviation over the seeds and the mean's 95 % interval; below,"
        f" difference to {baseline} with its interval after Holm's correction, and the verdict."
        " Bold: the best mean, which alone is no finding.",
    ]
    notes += [BEST_IS_CHOSEN] if checkpoint == "best" else []
    headings = ["configuration", *(f"{t.task.label}: {t.task.metric}" for t in tables)]
    title = f"Configurations by tasks, {AFTER[checkpoint]}"
    return make_grid(name_of(scope, f"methods_{checkpoint}"), title, headings, rows, notes)


def selection_grid(scope: Scope, baseline: str) -> Grid:
    """Each method at the best of its configurations."""
    tables = [table for table in scope.tasks if table.selections]
    chosen = [{each.chosen.family: each for each in table.selections} for table in tables]
    families = dict.fromkeys(configuration.family for configuration in scope.configurations)
    rows = [
        [family, *(_selected(own.get(family)) for own in chosen)]
        for family in families
        if any(family in own for own in chosen)
    ]
    notes = [
        "This is selection: for each method and task the configuration with the best mean was"
        " chosen on the same evaluation examples that the number is from. The number is too good,"
        " the more so the more configurations a method had. Holm's correction counts every"
        f" configuration tried, so the verdict against {baseline} allows for the choice; the mean"
        " and the difference do not."
    ]
    headings = ["method", *(f"{t.task.label}: {t.task.metric}" for t in tables)]
    title = "Each method at its best configuration, after the last step"
    return make_grid(name_of(scope, "methods_selected"), title, headings, rows, notes)


def comparison_grid(scope: Scope, baseline: str, *, others: bool = True) -> Grid:
    """Every number of every cell, one row each; ``others``: also of metrics beside the main one."""
    columns = (
        "task", "configuration", "metric", "checkpoint", "runs", "no value", "failed", "mean", "sd",
        "low", "high", "pairs", "difference", "diff. low", "diff. high", "p", "p (Holm)",
        "effect size", "wins", "ties", "losses", "verdict", "remark",
    )  # fmt: skip
    rows = [
        _comparison_row(table, cell)
        for table in scope.tasks
        for cell in _by_configuration(scope, table)
        if others or cell.measure.main or cell.measure.name == LOSS
    ]
    notes = [
        f"Differences are minus {baseline}, paired by seed. low, high: ends of the interval by"
        " Student's t, at 95 % for the mean. Holm's correction over the configurations of a task"
        " is in p (Holm) and in the difference's interval, which excludes 0 exactly if the verdict"
        f" is a difference. Effect size: {EFFECT_SIZE}."
    ]
    return make_grid(name_of(scope, "comparison"), "All numbers", columns, rows, notes)


def _selected(found: Selection | None) -> Entry | None:
    if found is None:
        return None
    tried = f"{found.chosen.label}, best of {found.tried}"
    entry = _result(found.cell, None)
    how = tried if found.tried > 1 else "only one configuration"
    return dataclasses.replace(entry, details=(how, *entry.details))


def _result(cell: Cell | None, best: float | None) -> Entry:
    if cell is None:
        return Entry(MISSING, None)
    if cell.description is None:
        return Entry(MISSING, None, details=("all runs failed" if cell.failed else "no value",))
    entry = spread(cell.description)
    details = list(entry.details) or [f"{count(cell.description.count, 'run')}, no interval"]
    if cell.comparison is not None:
        difference = signed(cell.comparison.difference)
        bounds = interval(cell.comparison.low, cell.comparison.high, sign=True)
        details += [f"{difference} {bounds}".strip(), cell.comparison.verdict]
    strong = best is not None and cell.description.mean == best
    return Entry(entry.text, entry.value, strong, tuple(details))


def _best_mean(table: TaskTable, checkpoint: Checkpoint) -> float | None:
    found = [
        (cell.measure.worth(cell.description.mean), cell.description.mean)
        for cell in table.cells
        if cell.is_main(checkpoint) and cell.description is not None
    ]
    return max(found)[1] if found else None


def _by_configuration(scope: Scope, table: TaskTable) -> list[Cell]:
    order: dict[RunConfiguration, int] = {
        configuration: index for index, configuration in enumerate(scope.configurations)
    }
    measures = list(dict.fromkeys(cell.measure for cell in table.cells))
    return sorted(table.cells, key=lambda c: (measures.index(c.measure), order[c.configuration]))


def _comparison_row(table: TaskTable, cell: Cell) -> list[Any]:
    found, compared = cell.description, cell.comparison
    row: list[Any] = [
        table.task.label,
        cell.configuration.label,
        cell.measure.name,
        cell.measure.checkpoint,
        *(len(cell.values), cell.missing, cell.failed),
    ]
    row += [None] * 4 if found is None else [found.mean, found.deviation, found.low, found.high]
    if compared is None:
        return [*row, *[None] * 10, "", cell.reason]
    return [
        *row,
        compared.count,
        *(numeric(v, signed(v)) for v in (compared.difference, compared.low, compared.high)),
        *(compared.p_value, compared.p_adjusted),
        numeric(compared.effect_size, signed(compared.effect_size, 2)),
        *(compared.wins, compared.ties, compared.losses),
        compared.verdict,
        compared.note or "",
    ]


def name_of(scope: Scope, name: str) -> str:
    """Return the name of a grid's files; time-matched ones have an ending."""
    return name if scope.budget == "steps" else f"{name}_equal_time"
