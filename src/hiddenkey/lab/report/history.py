"""Every stored run as a row, what a search tried, and the long grids that are only CSV."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from hiddenkey.lab.evidence.cells import finite
from hiddenkey.lab.evidence.configurations import ConfiguredRun, differing_options, explicit
from hiddenkey.lab.evidence.costs import memory
from hiddenkey.lab.present.entries import Grid, grid_of, make_grid
from hiddenkey.lab.report.tables import RunRow, SearchRow, Tables
from hiddenkey.lab.run.result import Worth

Environments = tuple[tuple[Mapping[str, Any], int], ...]


def tabulate_runs(
    runs: Sequence[ConfiguredRun], replaced: set[str], differing: Sequence[str]
) -> tuple[tuple[RunRow, ...], Environments]:
    """Return a row for each run, and the distinct environments that the rows point to."""
    frozen = [json.dumps(run.record.environment, sort_keys=True) for run in runs]
    counts = Counter(frozen)
    distinct = list(counts)
    rows = tuple(
        RunRow(
            record=run.record,
            values=_values(run, run.record.id in replaced),
            options={name: run.record.options.get(name) for name in differing},
            environment=distinct.index(text),
        )
        for run, text in zip(runs, frozen, strict=True)
    )
    return rows, tuple((json.loads(text), counts[text]) for text in distinct)


def tabulate_search(runs: Sequence[ConfiguredRun], by: Worth = "best") -> tuple[SearchRow, ...]:
    """Return the configurations that a search tried, the leading one of each method first.

    Args:
        runs: of the search.
        by: what its trials are worth.
    """
    groups: dict[tuple[str, str, str, int], list[ConfiguredRun]] = defaultdict(list)
    for run in runs:
        groups[
            run.task.label,
            run.configuration.method,
            run.configuration.model,
            run.configuration.rank,
        ].append(run)
    return tuple(trial for group in groups.values() for trial in _trials(group, by))


def _trials(runs: Sequence[ConfiguredRun], by: Worth) -> list[SearchRow]:
    """The trials of one search: runs that differ in the seed alone are one trial."""
    _, differing = differing_options(run.record for run in runs)
    names = [name for name in differing if name not in ("seed", "rates")]
    groups: dict[tuple[str, ...], list[ConfiguredRun]] = defaultdict(list)
    for run in runs:
        values = explicit(run.record.options)
        groups[tuple(_shown(values.get(name)) for name in names)].append(run)
    trials = [
        _trial(dict(zip(names, chosen, strict=True)), group) for chosen, group in groups.items()
    ]
    worth = [_worth(group, by) for group in groups.values()]
    # a halving gave the others fewer seeds, since they were behind
    orders = [
        (value is None, -len(group), -(value or 0.0))
        for value, group in zip(worth, groups.values(), strict=True)
    ]
    first = min(orders)
    ordered = [
        (order, dataclasses.replace(trial, leading=not order[0] and order == first))
        for trial, order in zip(trials, orders, strict=True)
    ]
    return [trial for _, trial in sorted(ordered, key=lambda each: each[0])]


def _worth(runs: Sequence[ConfiguredRun], by: Worth) -> float | None:
    """What a trial was worth to its search; ``None`` where a run diverged."""
    if any(run.record.counts_as_worst for run in runs):
        return None
    return _mean(
        [
            run.record.result.worth(by, lower=bool(run.record.options.get("lower_is_better")))
            for run in runs
            if run.record.result is not None
        ]
    )


def _trial(settings: Mapping[str, str], runs: Sequence[ConfiguredRun]) -> SearchRow:
    configuration, task = runs[0].configuration, runs[0].task
    place = {
        "task": task.label,
        "method": configuration.method,
        "model": configuration.model,
        "rank": str(configuration.rank),
    }
    results = [run.record.result for run in runs if run.record.result is not None]
    metrics = [result.metrics[result.main_metric] for result in results]
    lost = any(run.record.counts_as_worst for run in runs)
    return SearchRow(
        settings={**place, **settings},
        metric=task.metric,
        last=_mean([finite(metric.last) for metric in metrics]),
        best=None if lost else _mean([finite(metric.best) for metric in metrics]),
        seeds=len(results),
        failed=len(runs) - len(results),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _values(run: ConfiguredRun, superseded: bool) -> dict[str, Any]:
    """What the list of all runs says; ``superseded``: a newer run like this one replaces it."""
    record, result = run.record, run.record.result
    metric = None if result is None else result.metrics[result.main_metric]
    loss = None if result is None else result.eval_loss
    return {
        "id": record.id,
        "task": run.task.label,
        "configuration": run.configuration.label,
        "seed": run.seed,
        "stage": record.stage,
        "budget": record.budget,
        "status": record.status,
        "superseded": superseded,
        "metric": result.main_metric if result else "",
        "last": finite(metric.last) if metric else None,
        "best": finite(metric.best) if metric else None,
        "best_step": metric.best_step if metric else None,
        "loss_last": finite(loss.last) if loss else None,
        "loss_best": finite(loss.best) if loss else None,
        "steps": (result.steps or None) if result else None,
        "seconds_per_step": finite(result.seconds_per_step) or None if result else None,
        "memory_mib": finite(memory(result)) if result else None,
        "attempts": record.attempts,
        "started": record.started,
        "ended": record.ended,
    }


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def runs_grid(tables: Tables) -> Grid:
    """One row for each run, with all of its options and its environment."""
    names = [*tables.shared, *(name for row in tables.runs[:1] for name in row.options)]
    machine = dict.fromkeys(name for known, _ in tables.environments for name in known)
    rows = [
        {
            **row.values,
            **{f"option {name}": row.record.options.get(name) for name in names},
            **{f"environment {name}": row.record.environment.get(name) for name in machine},
        }
        for row in tables.runs
    ]
    return grid_of("runs", "All runs", rows)


def failures_grid(tables: Tables) -> Grid:
    """One row for each failed run, with its whole error."""
    names = ("id", "task", "configuration", "seed", "stage", "budget", "attempts", "ended")
    rows = [
        {**{name: row.values[name] for name in names}, "error": (row.record.error or "").strip()}
        for row in tables.failures
    ]
    return grid_of("failed", "Failed runs", rows)


def curves_grid(tables: Tables) -> Grid:
    """One row for each point of each curve."""
    columns = (
        "budget", "task", "configuration", "metric", "examples", "step", "mean", "sd", "runs"
    )  # fmt: skip
    rows = [
        (scope.budget, table.task.label, curve.configuration.label, curve.name, curve.part,
         point.step, point.spread.mean, point.spread.deviation, point.spread.count)
        for scope in tables.scopes
        for table in scope.tasks
        for curve in table.curves
        for point in curve.points
    ]  # fmt: skip
    return make_grid("curves", "Curves", columns, rows)
