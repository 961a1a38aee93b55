"""The tables of a report as grids to print."""

from __future__ import annotations

from hiddenkey.lab.evidence.inference import LEVEL, Ratio
from hiddenkey.lab.present.entries import Entry, Grid, difference, make_grid, numeric, spread
from hiddenkey.lab.present.words import MISSING, count, interval, number, probability
from hiddenkey.lab.report.comparison_grids import (
    BEST_IS_CHOSEN,
    comparison_grid,
    methods_grid,
    name_of,
    selection_grid,
)
from hiddenkey.lab.report.tables import Scope, Tables


def scope_grids(scope: Scope, baseline: str, *, others: bool = True) -> dict[str, Grid]:
    """Return the grids of one scope by what they show; ``others`` as in comparison_grid."""
    grids = {
        "last": methods_grid(scope, "last", baseline),
        "best": methods_grid(scope, "best", baseline),
        "numbers": comparison_grid(scope, baseline, others=others),
        "gap": gap_grid(scope),
        "cost": cost_grid(scope, baseline),
        "selected": selection_grid(scope, baseline),
        "sweeps": sweep_grid(scope),
        "ranks": rank_grid(scope),
    }
    optional = ("selected", "sweeps", "ranks")
    return {name: grid for name, grid in grids.items() if grid.rows or name not in optional}


def gap_grid(scope: Scope) -> Grid:
    """Training against evaluation examples."""
    rows = [
        [
            t.task.label,
            g.configuration.label,
            g.name,
            *map(spread, (g.training, g.evaluation, g.gap)),
        ]
        for t in scope.tasks
        for g in sorted(
            t.gaps, key=lambda g: (g.name == "loss", scope.configurations.index(g.configuration))
        )
    ]
    notes = [
        "After the last step, without dropout. Training: a fixed sample of the training examples."
        " Generalisation gap: training minus evaluation, mean ± standard deviation over seeds."
    ]
    columns = ("task", "configuration", "metric", "training", "evaluation", "generalisation gap")
    return make_grid(name_of(scope, "gap"), "Training and evaluation", columns, rows, notes)


def cost_grid(scope: Scope, baseline: str) -> Grid:
    """Time and memory beside the gain."""
    rows = [
        [
            table.task.label,
            cost.configuration.label,
            None if cost.gain is None else difference(cost.gain.difference, cost.gain.interval),
            _times(cost.time),
            cost.seconds_per_step,
            _times(cost.memory),
            numeric(cost.memory_mib, _whole(cost.memory_mib)),
            numeric(cost.steps, f"{cost.steps:,.0f}"),
            numeric(cost.lora_parameters, f"{cost.lora_parameters:,}"),
        ]
        for table in scope.tasks
        for cost in sorted(
            table.costs, key=lambda cost: scope.configurations.index(cost.configuration)
        )
    ]
    columns = (
        "task", "configuration", "gain", f"time vs {baseline}", "s/step", f"memory vs {baseline}",
        "peak MiB", "steps", "adapter parameters",
    )  # fmt: skip
    notes = [
        "Medians over seeds; ratios are geometric means with 95 % intervals (Student's t of the"
        " logarithms): of time over steps that took turns, where they were timed, else over pairs"
        " of equal seed. Gain: paired difference of the main metric to"
        f" {baseline} after the last step. Runs at the same time on one machine slow each other"
        " down."
    ]
    costs = [cost for table in scope.tasks for cost in table.costs]
    if any(not cost.device_memory for cost in costs):
        notes.append(
            "Without an accelerator, memory is the largest resident memory of the process so far:"
            " where one process trained several runs, a later run cannot show less than an earlier"
            " one, so take it as an upper bound."
        )
    return make_grid(name_of(scope, "cost"), "Cost and gain", columns, rows, notes)


def sweep_grid(scope: Scope) -> Grid:
    """The points of the pictures over rate, rank and weight."""
    rows = [
        [
            table.task.label,
            sweep.option,
            series.label,
            numeric(point.x, f"{point.x:g}"),
            *(spread(description) for description in (point.last, point.best)),
        ]
        for table in scope.tasks
        for sweep in table.sweeps
        for series in sweep.series
        for point in series.points
    ]
    columns = ("task", "option", "line", "value", "last", "best")
    title = "Main metric over rate, rank and weight"
    return make_grid(name_of(scope, "sweeps"), title, columns, rows, [BEST_IS_CHOSEN])


def rank_grid(scope: Scope) -> Grid:
    """Average ranks over the tasks; without rows where there is no ranking."""
    rows, notes = [], []
    if (ranking := scope.ranking) is not None:
        rows = [[label, numeric(rank, number(rank, 2))] for label, rank in ranking.ranks.items()]
        notes = [
            f"Rank 1 is best, mean over {ranking.tasks} tasks of the main metric after the last"
            f" step. Friedman's test: p {probability(ranking.p_value)}. Ranks less than"
            f" {number(ranking.critical_difference, 2)} apart (Nemenyi, {LEVEL:.0%} level)"
            " cannot be distinguished.",
            *filter(None, (ranking.note, scope.unranked)),
        ]
    columns = ("configuration", "average rank")
    return make_grid(name_of(scope, "ranks"), "Average ranks", columns, rows, notes)


def search_grid(tables: Tables) -> Grid:
    """What a search tried."""
    names = list(dict.fromkeys(name for trial in tables.search for name in trial.settings))
    rows = [
        [
            *(trial.settings.get(name, MISSING) for name in names),
            trial.metric,
            Entry(number(trial.best), trial.best, strong=trial.leading),
            *(trial.last, trial.seeds, trial.failed),
        ]
        for trial in tables.search
    ]
    columns = (*names, "metric", "best", "last", "runs", "failed")
    notes = [
        "Measured on a held-out part of the training examples, which the comparison above does not"
        " look at; none of these runs is in it. Bold: the configuration that leads among its"
        " method's with the most seeds, by their mean of the evaluation that the search goes by."
    ]
    return make_grid("search", "Configurations tried by the search", columns, rows, notes)


def _whole(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"


def _times(ratio: Ratio | None) -> Entry:
    """A ratio with its interval; one that includes 1 is neither a gain nor a cost, and says so."""
    if ratio is None:
        return Entry(MISSING, None)
    bounds = ratio.interval()
    same = ratio.logarithm.mean == ratio.logarithm.error == 0
    details = [] if bounds is None or same else [interval(*bounds, digits=2)]
    if not (ratio.differs or same):
        details.append(f"inconclusive ({count(ratio.logarithm.count, 'pair')})")
    return Entry(f"{ratio.value:.2f} ×", ratio.value, details=tuple(details))
