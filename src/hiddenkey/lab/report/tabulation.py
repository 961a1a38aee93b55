"""Records → tables: a pure function, no files and no pictures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean

from hiddenkey.lab.evidence.axes import Budget, RunConfiguration, Task
from hiddenkey.lab.evidence.cells import tabulate_cells
from hiddenkey.lab.evidence.configurations import (
    ConfiguredRun,
    configuration_order,
    differing_options,
    find_runs,
    newest,
    require_method,
)
from hiddenkey.lab.evidence.costs import StepTimes, tabulate_costs
from hiddenkey.lab.evidence.curves import tabulate_curves, tabulate_gaps
from hiddenkey.lab.evidence.ranks import Ranking, rank_methods
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.evidence.sweeps import tabulate_selections, tabulate_sweeps
from hiddenkey.lab.plans.stored import StoredPlan
from hiddenkey.lab.present.words import count, listing
from hiddenkey.lab.report.advice import Background, advise
from hiddenkey.lab.report.history import tabulate_runs, tabulate_search
from hiddenkey.lab.report.lead import lead
from hiddenkey.lab.report.notes import matching, task_notes
from hiddenkey.lab.report.tables import Scope, Tables, TaskTable
from hiddenkey.lab.report.verdicts import judge


def tabulate(
    records: Sequence[Record],
    baseline: str = "lora",
    timed: Sequence[StepTimes] = (),
    plan: StoredPlan | None = None,
    margin: float | None = None,
) -> Tables:
    """Return everything that a report says about the records.

    Args:
        records: finished and failed runs, in any order.
        baseline: method that the others are compared with.
        timed: steps that took turns.
        plan: of the comparison, where its folder has it.
        margin: smallest difference of the main metric that matters; ``None`` for the plan's.

    Raises:
        ConfigError: if the baseline is no method that the records or the library know.
    """
    require_method("baseline", baseline, records)
    steps = find_runs(_of(records, "compare", "steps"), "steps", baseline)
    time = find_runs(_of(records, "compare", "time"), "time", baseline)
    search = find_runs(_of(records, "search"), "steps", baseline)
    shared, differing = differing_options(records)
    replaced = newest(steps)[1] | newest(time)[1]
    rows, environments = tabulate_runs([*steps, *time, *search], replaced, differing)
    searched = plan.plan.searched if plan else None
    margin = margin or (plan.plan.margin if plan else None)
    known = _background(plan, [*newest(steps)[0], *newest(time)[0]], margin)
    scopes = [_scope(steps, "steps", baseline, timed, known)] if steps else []
    if time:
        both = [*(run.record for run in time), *_beside(time, steps, baseline)]
        scopes.append(_scope(find_runs(both, "time", baseline), "time", baseline, timed, known))
    return Tables(
        baseline=baseline,
        scopes=tuple(scopes),
        search=tabulate_search(search, searched.by if searched else "best"),
        runs=rows,
        shared=shared,
        environments=environments,
        notes=_notes(records, replaced, baseline),
    )


def _of(records: Sequence[Record], stage: str, budget: str | None = None) -> list[Record]:
    return [
        record
        for record in records
        if record.stage == stage and (budget is None or record.budget == budget)
    ]


def _scope(
    runs: Sequence[ConfiguredRun],
    budget: Budget,
    baseline: str,
    timed: Sequence[StepTimes],
    known: Background,
) -> Scope:
    kept, _ = newest(runs)
    configurations = tuple(
        sorted(
            {run.configuration for run in kept},
            key=lambda configuration: configuration_order(configuration, baseline),
        )
    )
    tasks = tuple(
        _task_table(task, [run for run in kept if run.task == task], budget, baseline, timed, known)
        for task in dict.fromkeys(run.task for run in kept)
    )
    ranking, unranked = _rank(configurations, tasks)
    return Scope(budget, configurations, tasks, ranking, unranked)


def _beside(
    time: Sequence[ConfiguredRun], steps: Sequence[ConfiguredRun], baseline: str
) -> list[Record]:
    """The baseline's own runs of the tasks, models and ranks that have time-matched runs."""
    places = {(run.task.name, run.configuration.model, run.configuration.rank) for run in time}
    return [
        run.record
        for run in steps
        if run.configuration.method == baseline
        and (run.task.name, run.configuration.model, run.configuration.rank) in places
    ]


def _task_table(
    task: Task,
    runs: Sequence[ConfiguredRun],
    budget: Budget,
    baseline: str,
    timed: Sequence[StepTimes],
    known: Background,
) -> TaskTable:
    cells = tabulate_cells(runs, baseline, known.margin)
    costs = tabulate_costs(runs, cells, baseline, timed)
    verdict = judge(cells, baseline, budget)
    return TaskTable(
        task=task,
        lead=lead(task, cells, costs, runs, baseline),
        verdict=verdict,
        advice=advise(verdict, cells, costs, runs, baseline, known),
        cells=cells,
        gaps=tabulate_gaps(runs),
        costs=costs,
        curves=tabulate_curves(runs),
        sweeps=tabulate_sweeps(cells, baseline),
        selections=tabulate_selections(cells),
        notes=task_notes(runs, cells, baseline, budget),
        matching=matching(runs, baseline, budget),
    )


def _background(
    plan: StoredPlan | None, runs: Sequence[ConfiguredRun], margin: float | None
) -> Background:
    """What advice on one task needs of all runs: a command adds seeds to every configuration."""
    seconds: dict[tuple[Task, RunConfiguration, str], list[float]] = defaultdict(list)
    for run in runs:
        if (own := run.record.wall_seconds) is not None:
            seconds[run.task, run.configuration, run.record.budget].append(own)
    total = sum(map(fmean, seconds.values())) if seconds else None
    return Background(plan, tuple(sorted({run.seed for run in runs})), total, margin)


def _rank(
    configurations: Sequence[RunConfiguration], tasks: Sequence[TaskTable]
) -> tuple[Ranking | None, str]:
    """Rank the configurations that every task with results has; say what cannot be ranked."""
    measured = [table for table in tasks if any(cell.description for cell in table.cells)]
    scores: dict[str, list[float]] = {}
    for configuration in configurations:
        cells = [table.find(configuration, "last") for table in measured]
        found = [
            cell.measure.worth(cell.description.mean)
            for cell in cells
            if cell is not None and cell.description is not None
        ]
        if len(found) == len(measured):
            scores[configuration.label] = found
    left_out = [
        configuration.label for configuration in configurations if configuration.label not in scores
    ]
    if len(measured) < 2:
        return None, (
            "Average ranks need at least two tasks, and ten or more to show much; there"
            f" {'is' if len(measured) == 1 else 'are'} {len(measured)}."
        )
    if len(scores) < 3:
        return None, (
            "Average ranks need at least three configurations that were run on every task; there"
            f" {'is' if len(scores) == 1 else 'are'} {len(scores)}."
        )
    words = f"Not on every task, so left out: {listing(left_out, limit=8)}." if left_out else ""
    return rank_methods(scores), words


def _notes(records: Sequence[Record], replaced: set[str], baseline: str) -> tuple[str, ...]:
    notes = []
    if not any(record.options.get("method") == baseline for record in records):
        notes.append(f"No run uses the baseline {baseline}, so no differences are tested.")
    if any(not record.observed and _from_elsewhere(record) for record in records):
        notes.append(
            "These runs were not watched: that runs of one seed started from the same weights and"
            " saw the same batches is taken on trust."
        )
    if lost := Counter(_search_of(run) for run in records if run.counts_as_worst):
        named = listing([f"{what} ({amount})" for what, amount in lost.items()], limit=8)
        notes.append(
            f"{count(lost.total(), 'run')} of a search diverged: {named}. They count as the worst"
            " of their search, so their settings were not chosen."
        )
    if replaced:
        notes.append(
            f"{count(len(replaced), 'run')} of the same configuration, task and seed as a newer one"
            " (with other versions, for example) stayed out of the comparison; the list of runs has"
            f" {'it' if len(replaced) == 1 else 'them'}."
        )
    return tuple(notes)


def _search_of(record: Record) -> str:
    return f"{record.options['method']} on {record.options['task']}"


def _from_elsewhere(record: Record) -> bool:
    """Whether somebody else's program trained, and no method was attached to it from outside."""
    options = record.options
    return "source" in options or (record.is_command and "{method}" in options["command"])
