"""``hiddenkey tune``: chooses a method and its settings, confirms them, and hands over an adapter.

A first look at plain LoRA, then a search and its confirmation: two plans of ``hiddenkey compare``,
run by the same workers, so that what was interrupted goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from textwrap import indent

from rich.console import Console

from hiddenkey.cli import compare
from hiddenkey.cli.running import (
    interrupted_by_sigterm,
    use_threads_of_one,
    work_off,
)
from hiddenkey.cli.terminal import plain_table, say, standard_console
from hiddenkey.files import write_whole
from hiddenkey.lab.compare.command_outline import CommandOutline
from hiddenkey.lab.compare.coordinator import Coordinator
from hiddenkey.lab.compare.outline import Outline
from hiddenkey.lab.compare.probe import time_missing_steps
from hiddenkey.lab.compare.prospects import prospects
from hiddenkey.lab.compare.renamed import under_its_name
from hiddenkey.lab.compare.survey import Costs
from hiddenkey.lab.evidence.cells import LOSS
from hiddenkey.lab.evidence.costs import read_step_times
from hiddenkey.lab.evidence.overfitting import find_overfitting
from hiddenkey.lab.evidence.record import Record, read_records
from hiddenkey.lab.plans.data import Data, check
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.stored import read_plan, store_plan
from hiddenkey.lab.present.words import duration
from hiddenkey.lab.queue.storage import storage_errors
from hiddenkey.lab.report import tabulate, write_report
from hiddenkey.lab.tune import conclusion
from hiddenkey.lab.tune.budget import LOOKS, TRIALS, Effort, Prices, effort_for
from hiddenkey.lab.tune.conclusion import Conclusion
from hiddenkey.lab.tune.options import TuneOptions
from hiddenkey.lab.tune.stages import confirmation, first_look, wanted_seeds, whole_plan

_FAILED = 1


def run(options: TuneOptions) -> int:
    """Choose, confirm and hand over; return the exit status: 1 if there is nothing to hand over."""
    plan, data = whole_plan(options)
    console = standard_console()
    for line in data.described():
        say(console, line)
    effort, prices = _effort(plan, options, data)
    if options.dry_run:
        _show_stages(console, plan, effort, prices)
        if effort is not None:
            _show_prospects(console, plan, effort, data, by_loss=options.by == "loss")
        return 0
    look, failed = _work(console, _named(first_look(plan), plan), "first look at plain LoRA")
    if not any(record.result for record in look):
        return _FAILED
    if effort is None:  # the time of a command is known from its runs alone
        effort = _planned(plan, options, data, _measured(look))
    found = find_overfitting(look)
    plain = found is not None and not found.shown and not options.always
    notes = [
        conclusion.looked(found, plan.baseline, always=options.always),
        conclusion.equal_effort(effort, plan.methods, plan.baseline, plain=plain),
        *_same_examples(plan),
    ]
    say(console, notes[0])
    seeds = wanted_seeds(plan, options, data)[: effort.seeds]
    stage = _named(confirmation(plan, effort.trials, seeds, plain=plain), plan)
    records, lost = _work(console, stage, "choice" if plain else "choice and confirmation")
    return _end(console, plan, stage, records, notes, by_loss=options.by == "loss") or int(
        failed or lost
    )


def _named(stage: Plan, plan: Plan) -> Plan:
    """A stage under the name that its folder knows it by, unless the user named the whole."""
    return stage if plan.study else under_its_name(stage)


def _effort(plan: Plan, options: TuneOptions, data: Data) -> tuple[Effort | None, Prices | None]:
    """What the budget allows, and what a run costs, so far as it is known before the first."""
    timed = options.dry_run or options.minutes is not None
    prices = _timed(plan, data) if timed and plan.command is None else None
    if options.minutes is not None and prices is None:
        return None, None
    return _planned(plan, options, data, prices or Prices()), prices


def _planned(plan: Plan, options: TuneOptions, data: Data, prices: Prices) -> Effort:
    search = plan.searched
    assert search is not None
    stored = read_plan(Path(confirmation(plan, TRIALS, plan.seeds, plain=False).output))
    before = stored.plan.searched if stored else None
    if options.minutes is not None and stored and before and len(stored.plan.seeds) > 1:
        pairs = len(stored.plan.seeds)
        return Effort(before.trials, len(before.seeds), pairs, before.algorithm)
    given = options.search if isinstance(options.search, dict) else {}
    return effort_for(
        options.runs,
        None if options.minutes is None else options.minutes * 60,
        len(search.seeds),
        wanted_seeds(plan, options, data),
        prices,
        given=bool(options.seeds),
        trials=given.get("trials", TRIALS),
        algorithm=search.algorithm,
        workers=plan.workers,
    )


def _timed(plan: Plan, data: Data) -> Prices:
    """Seconds of runs, from a few timed steps of each method."""
    use_threads_of_one(plan.workers)
    costs = Costs(plan, data)
    seconds = {each.method: costs.run(each) for each in plan.settings()}
    plain = seconds.pop(plan.baseline)
    return Prices(plain, fmean(seconds.values()))


def _measured(records: Sequence[Record]) -> Prices:
    """Seconds of runs, from those of plain LoRA that ended."""
    seconds = fmean(record.wall_seconds or 0.0 for record in records if record.result is not None)
    return Prices(seconds, seconds)


def _work(console: Console, plan: Plan, title: str) -> tuple[list[Record], bool]:
    """Run what is missing of a plan; return the records of its runs, and whether some failed."""
    say(console, f"{title}: {plan.output}")
    data = Data() if plan.command is not None else check(plan, given=False)
    outline = Outline(plan, data) if plan.command is None else CommandOutline(plan)
    with (
        storage_errors(plan.job_store),
        interrupted_by_sigterm(),
        Coordinator(plan, outline) as coordinator,
    ):
        store_plan(plan)
        work_off(console, coordinator, plan.local_settings(), plan.several, plan.workers)
        failed = compare.conclude(console, coordinator, plan.several)
        if plan.command is None and plan.timed_steps and len(plan.methods) > 1:
            time_missing_steps(plan, data, lambda words: say(console, words))
        return coordinator.records(), failed


def _same_examples(plan: Plan) -> list[str]:
    """What a command without its own held-out part cannot say."""
    if plan.command is None or "stage" in plan.arguments:
        return []
    return [
        "The choice and the confirmation read the same metric on the same examples: only the seeds"
        " differ. Let the command take {stage}, which is 'search' while settings are chosen, and"
        " hold examples out then."
    ]


def _end(
    console: Console,
    plan: Plan,
    stage: Plan,
    records: Sequence[Record],
    notes: Sequence[str],
    *,
    by_loss: bool,
) -> int:
    """Write the page, hand the adapter over and say what came out."""
    folder = Path(stage.output)
    found = _conclusion(stage, records, notes, by_loss=by_loss)
    if found is None:
        say(console, "nothing to hand over: no run of what is to be used ended well")
        return _FAILED
    left = folder / "runs" / conclusion.folder_of(found.record)
    adapter = conclusion.hand_over(left, Path(plan.output))
    seed = found.record.options["seed"]
    lines = ["", *notes, *found.words]
    lines += [f"in {code.place}:\n{indent(code.text, '    ')}" for code in found.code]
    if adapter is not None:
        lines.append(f"adapter: {adapter}, of the run on all training examples with seed {seed}")
    elif found.record.is_command:
        lines.append(f"what the command left with seed {seed}: {left / 'output'}")
    lines.append(f"page: {folder / 'report' / 'report.html'}")
    write_whole(Path(plan.output) / "verdict.txt", "\n".join(lines[1:]) + "\n")
    say(console, "\n".join(lines))
    return 0


def _conclusion(
    stage: Plan, records: Sequence[Record], notes: Sequence[str], *, by_loss: bool
) -> Conclusion | None:
    """Write the page, with what the choice rests on; return what came out."""
    folder = Path(stage.output)
    tried = [each for each in read_records(folder) if each.stage == "search"]
    judged = conclusion.judged_by_loss if by_loss else list
    tables = tabulate(
        judged([*records, *tried]), stage.baseline, read_step_times(folder), read_plan(folder)
    )
    tables = dataclasses.replace(tables, notes=(*notes, *tables.notes))
    write_report(tables, folder / "report", title=Path(stage.output).resolve().parent.name)
    names = list(stage.searched.space) if stage.searched else []
    if len(stage.methods) == 1:
        return conclusion.conclude_plain(records, names)
    metric = next((r.result.main_metric for r in records if r.result is not None), "")
    for table in tables.scopes[0].tasks[:1] if tables.scopes else ():
        return conclusion.conclude(table, records, stage.baseline, metric, names)
    return None


def _show_stages(
    console: Console, plan: Plan, effort: Effort | None, prices: Prices | None
) -> None:
    """List what would be run, how long it takes and what the seeds can show."""
    if effort is None:
        say(
            console,
            f"first {LOOKS} runs of {plan.baseline}: the time of the rest follows from them",
        )
        return
    others = " or ".join(name for name in plan.methods if name != plan.baseline)
    trials, pairs = effort.choosing, effort.seeds
    table = plain_table(
        f"{effort.runs} runs of {plan.output}", left=["stage", "of"], right=["runs"]
    )
    table.add_row("first look", plan.baseline, str(LOOKS))
    table.add_row("choice", plan.baseline, str(trials))
    table.add_row("choice", others, str(trials))
    table.add_row("confirmation", f"{plan.baseline} and what was chosen", str(2 * pairs))
    console.print(table)
    say(console, f"where {plan.baseline} does not overfit: {LOOKS + trials + 1} runs, of it alone")
    if prices is not None:
        seconds = effort.price(prices) / plan.workers
        say(
            console,
            f"about {duration(seconds)} with {plan.workers} workers, from a few timed steps",
        )


def _show_prospects(
    console: Console, plan: Plan, effort: Effort, data: Data, *, by_loss: bool
) -> None:
    """Say what the seeds of the confirmation can show of the metric that it is judged by."""
    planned = confirmation(plan, effort.trials, tuple(range(effort.seeds)), plain=False)
    judged = data.judged if plan.command is None else None
    found = prospects(planned, (), examples=judged)
    if by_loss:  # it has no usual scale
        found = [dataclasses.replace(each, metric=LOSS, scatter=None) for each in found]
    compare.show_prospects(console, found, plan.workers)
