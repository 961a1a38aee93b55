"""``hiddenkey compare``: many runs from one plan, shared by workers, resumed where they stood."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from hiddenkey.cli import report
from hiddenkey.cli.running import duration, interrupted_by_sigterm, line, show_jobs, work_off
from hiddenkey.cli.terminal import number, plain_table, say, standard_console
from hiddenkey.lab.compare.archive import records_of
from hiddenkey.lab.compare.coordinator import Coordinator
from hiddenkey.lab.compare.outline import Outline
from hiddenkey.lab.compare.prospects import Prospect, prospects
from hiddenkey.lab.compare.step_costs import time_missing_steps
from hiddenkey.lab.evidence.inference import FEWEST
from hiddenkey.lab.evidence.planning import MOST
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.plans.data import Data, check
from hiddenkey.lab.plans.identity import PATHS, label, options_from
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.queue.storage import storage_errors

_FAILED = 1


def run(plan: Plan) -> int:
    """Run what is missing of a plan and return the exit status: 1 if a run failed."""
    data = check(plan)
    outline = Outline(plan, data)
    console = standard_console()
    if plan.dry_run:
        say(console, "\n".join(data.described()))
        _show_survey(console, plan, outline, data)
        return 0
    with (
        storage_errors(plan.job_store),
        interrupted_by_sigterm(),
        Coordinator(plan, outline) as coordinator,
    ):
        known = coordinator.records()
        if len(known) < outline.total:
            say(console, "\n".join(data.described()))
            _show_prospects(console, plan, prospects(plan, known))
        work_off(console, plan, coordinator, _local_settings(plan), _shown(plan))
        time_missing_steps(plan, data, partial(say, console))
        return _conclude(console, plan, coordinator)


def _shown(plan: Plan) -> list[str]:
    """What a line says of a run, since the plan has several of it."""
    return [name for name, axis in (("rank", plan.ranks), ("model", plan.models)) if len(axis) > 1]


def _local_settings(plan: Plan) -> dict[str, dict[str, Any]]:
    """Where this machine has the data, by task."""
    found: dict[str, dict[str, Any]] = {}
    for options in plan.settings():
        given = {name: getattr(options, name) for name in (*PATHS, "trust_remote_code")}
        found[options.task] = {name: value for name, value in given.items() if value is not None}
    return found


def _conclude(console: Console, plan: Plan, coordinator: Coordinator) -> int:
    records = coordinator.records()
    finished = [record for record in records if record.result is not None]
    failed = [record for record in records if record.result is None]
    if finished:
        console.print(_table(finished, _shown(plan)))
    if other := coordinator.other_runs():
        say(console, f"{other} more finished runs of earlier plans are in the folder")
    problems = coordinator.problems()
    for record in failed:
        say(console, line(record, _shown(plan)))
    for problem in problems:
        say(console, problem)
    if failed or problems:
        say(console, "run what failed again with the same command and --retry-failed")
    if plan.report and finished:
        report.write(console, Path(plan.output), plan.baseline)
    else:
        say(console, f"report: hiddenkey report {plan.output} --baseline {plan.baseline}")
    return _FAILED if failed or problems else 0


def _table(records: Sequence[Record], also: Sequence[str]) -> Table:
    """Mean and deviation over the seeds, for each task and configuration."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        name = label(options_from(record.options), also, seed=False)
        groups[name + (", time-matched" if record.budget == "time" else "")].append(record)
    table = plain_table(
        "mean ± standard deviation over the seeds",
        left=["task, method"],
        right=["metric", "best", "last", "seeds"],
    )
    for name, found in groups.items():
        results = [record.result for record in found if record.result is not None]
        metric = results[0].main_metric
        table.add_row(
            name,
            metric,
            _spread([result.metrics[metric].best for result in results]),
            _spread([result.metrics[metric].last for result in results]),
            str(len(results)),
        )
    return table


def _show_survey(console: Console, plan: Plan, outline: Outline, data: Data) -> None:
    from hiddenkey.lab.compare.survey import Costs, look

    states, costs = look(plan, outline), Costs(plan, data)
    show_jobs(
        console, plan, outline, states, costs,
        lambda row: (label(row.options, _shown(plan), seed=False), row.what),
    )  # fmt: skip
    known = records_of(outline.jobs(states)[plan.name], states.get(plan.name, {}))
    _show_prospects(console, plan, prospects(plan, known, costs.of_seed))


def _show_prospects(console: Console, plan: Plan, found: Sequence[Prospect]) -> None:
    """Say what the planned seeds can show, and how many would do."""
    numbers = ("seeds", "compared", "deviation", "shown from", "margin", "seeds for it", "runs")
    table = plain_table(
        "what the seeds can show, at 5 % in both directions and with 80 % chance",
        left=["task, metric"],
        right=[*numbers, "time"],
    )
    for each in found:
        seconds = each.needed_seconds
        table.add_row(
            f"{each.task}, {each.metric}",
            str(each.pairs),
            str(each.comparisons),
            "unknown" if each.scatter is None else f"{each.scatter.deviation:.4f}",
            _shown_from(each),
            "" if each.scatter is None else f"{each.scatter.margin:.3g}",
            "unknown" if each.scatter is None else str(each.needed or f"over {MOST}"),
            "" if each.needed is None else str(each.needed * each.runs),
            "" if seconds is None else duration(seconds / plan.workers),
        )
    console.print(table)
    for source in dict.fromkeys(each.scatter.source for each in found if each.scatter):
        say(console, f"deviation: of a seed's difference to the baseline, {source}")
    for each in found:
        if not each.reaches_verdict:
            say(console, f"{each.task}: no verdict can be reached; {_why_none(each)}")


def _shown_from(found: Prospect) -> str:
    if not found.reaches_verdict:
        return "none"
    return "unknown" if found.detectable is None else f"{found.detectable:.4f}"


def _why_none(found: Prospect) -> str:
    if not found.comparisons:
        return "nothing is compared with the baseline"
    return f"it takes {FEWEST} seeds or more, here it is {found.pairs}"


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return number(mean(known)) + (f" ± {stdev(known):.4f}" if len(known) > 1 else "")
