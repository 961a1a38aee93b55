"""``hiddenkey compare``: many runs from one plan, shared by workers, resumed where they stood."""

from __future__ import annotations

import dataclasses
import shlex
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

from hiddenkey.cli import report
from hiddenkey.cli.running import (
    interrupted_by_sigterm,
    name_of,
    show_jobs,
    use_threads_of_one,
    work_off,
)
from hiddenkey.cli.terminal import number, plain_table, say, standard_console
from hiddenkey.errors import ConfigError
from hiddenkey.lab.compare.archive import records_of
from hiddenkey.lab.compare.command_outline import CommandOutline
from hiddenkey.lab.compare.coordinator import Coordinator, Jobs
from hiddenkey.lab.compare.first_plan import next_command, write_first_plan
from hiddenkey.lab.compare.outline import Outline, States
from hiddenkey.lab.compare.probe import time_missing_steps
from hiddenkey.lab.compare.prospects import Prospect, prospects
from hiddenkey.lab.compare.renamed import under_its_name
from hiddenkey.lab.compare.survey import JobRow, Survey, look, look_ahead
from hiddenkey.lab.evidence.comparisons import describe
from hiddenkey.lab.evidence.inference import FEWEST
from hiddenkey.lab.evidence.planning import MOST
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.plans.data import check
from hiddenkey.lab.plans.identity import label
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.stored import store_plan
from hiddenkey.lab.plans.validation import validate
from hiddenkey.lab.present.words import count, duration, failed_alike
from hiddenkey.lab.queue.storage import storage_errors

_FAILED = 1


def run(plan: Plan) -> int:
    """Run what is missing of a plan and return the exit status: 1 if a run failed."""
    if plan.init is not None:
        return _write_first_plan(plan)
    if plan.study is None:
        plan = under_its_name(plan)
    if plan.command is not None:
        return _run_command(plan)
    data = check(plan)
    outline = Outline(plan, data)
    console = standard_console()
    if plan.dry_run:
        say(console, "\n".join(data.described()))
        use_threads_of_one(plan.workers)
        found = look_ahead(plan, outline, data)
        _show_survey(console, found, plan.several, plan.output, plan.workers)
        return 0

    def describe(known: Sequence[Record]) -> None:
        say(console, "\n".join(data.described()))
        show_prospects(console, prospects(plan, known, examples=data.judged), plan.workers)

    def finish() -> None:
        time_missing_steps(plan, data, partial(say, console))

    return _work(console, plan, outline, describe, finish)


def _work(
    console: Console,
    plan: Plan,
    outline: Jobs,
    describe: Callable[[Sequence[Record]], None],
    finish: Callable[[], None] = lambda: None,
) -> int:
    """Run what is missing and report; return the exit status.

    Args:
        console: where to say it.
        plan: the plan.
        outline: its jobs.
        describe: says before the first run what is known of them, from the records so far.
        finish: what to do when all runs are done, before the report.
    """
    with (
        storage_errors(plan.job_store),
        interrupted_by_sigterm(),
        Coordinator(plan, outline) as coordinator,
    ):
        store_plan(plan)
        known = coordinator.records()
        if len(known) < outline.total:
            describe(known)
        work_off(console, coordinator, plan.local_settings(), plan.several, plan.workers)
        finish()
        failed = conclude(console, coordinator, plan.several)
        _report(console, plan, coordinator)
        return _FAILED if failed else 0


def _write_first_plan(plan: Plan) -> int:
    path, described = write_first_plan(plan)
    command = next_command(path)
    lines = [
        f"wrote {path}; look at its comments, then run",
        f"  {command} --dry-run",
        f"  {command}",
    ]
    say(standard_console(), "\n".join([*described, *lines]))
    return 0


def _run_command(plan: Plan) -> int:
    """Run a plan whose trainings are the user's own command; return the exit status."""
    if faults := validate(plan):
        raise ConfigError(faults)
    outline, console = CommandOutline(plan), standard_console()
    if plan.dry_run:
        states = look(plan, outline)
        _show_command_runs(console, plan, outline, states)
        return 0

    def describe(known: Sequence[Record]) -> None:
        show_prospects(console, prospects(plan, known), plan.workers)

    return _work(console, plan, outline, describe)


def _report(console: Console, plan: Plan, coordinator: Coordinator) -> None:
    if plan.report and any(record.result for record in coordinator.records()):
        report.write(console, Path(plan.output), plan.baseline)
    else:
        say(console, f"report: hiddenkey report {plan.output} --baseline {plan.baseline}")


def _show_command_runs(
    console: Console, plan: Plan, outline: CommandOutline, states: States
) -> None:
    """List the runs of a command, what each would start, and what is known of their time."""
    by_study = outline.jobs(states)
    listed = by_study[plan.name]
    known = records_of(listed, states.get(plan.name, {}))
    table = plain_table(f"{outline.total} runs of {plan.output}", left=["run", "stands"])
    for study, jobs in by_study.items():
        for job in jobs:
            state = states.get(study, {}).get(job.key)
            table.add_row(job.name, "missing" if state is None else state.status)
    console.print(table)
    if plan.searched:
        say(console, "the runs that are compared follow from the search")
    first = dataclasses.replace(plan.command_settings()[0], seed=plan.seeds[0])
    say(console, f"the first one starts: {shlex.join(first.words('OUTPUT'))}")
    show_prospects(console, prospects(plan, known), plan.workers)
    seconds = [record.result.seconds for record in known if record.result is not None]
    left = outline.total - len(known)
    if seconds:
        time = duration(left * mean(seconds) / plan.workers)
        say(console, f"{left} runs are left: about {time}, from those that are done")
    else:
        say(console, f"{left} runs are left; their time is known when the first is done")


def conclude(console: Console, coordinator: Coordinator, several: Sequence[str]) -> bool:
    """Say what came out; return whether something failed."""
    records = coordinator.records()
    finished = [record for record in records if record.result is not None]
    failed = [record for record in records if record.result is None]
    if finished:
        console.print(_table(finished, several))
    if other := coordinator.other_runs():
        say(console, f"beside them: {count(other, 'run')} of earlier plans, or of other data")
    problems = coordinator.problems()
    told = ((r.reason, name_of(r, several, seed=False), int(r.options["seed"])) for r in failed)
    for words in (*failed_alike(told), *problems):
        say(console, words)
    if coordinator.may_retry():
        say(console, "run what failed again with the same command and --retry-failed")
    return bool(failed or problems)


def _table(records: Sequence[Record], also: Sequence[str]) -> Table:
    """Mean and deviation over the seeds, for each task and configuration."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[name_of(record, also, seed=False)].append(record)
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


def _show_survey(
    console: Console, found: Survey, several: Sequence[str], output: str, workers: int
) -> None:
    def name(row: JobRow) -> tuple[str, str]:
        return label(row.options, several, seed=False), row.what

    show_jobs(console, found.rows, found.total, name, output, workers)
    show_prospects(console, found.prospects, workers)


def show_prospects(console: Console, found: Sequence[Prospect], workers: int) -> None:
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
            "" if seconds is None else duration(seconds / workers),
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
    found = describe(known)
    return number(found.mean) + (f" ± {number(found.deviation)}" if len(known) > 1 else "")
