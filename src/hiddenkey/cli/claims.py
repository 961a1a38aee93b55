"""``hiddenkey claims``: evidence for the paper's claims, and one page of verdicts."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hiddenkey.cli.options import ClaimsOptions
from hiddenkey.cli.running import (
    interrupted_by_sigterm,
    show_jobs,
    use_threads_of_one,
    work_off,
)
from hiddenkey.cli.terminal import plain_table, say, standard_console
from hiddenkey.errors import ConfigError
from hiddenkey.lab.claims import reading
from hiddenkey.lab.claims.evidence import gather
from hiddenkey.lab.claims.findings import Evidence, expected_power
from hiddenkey.lab.claims.outline import EvidenceOutline, PlainCosts
from hiddenkey.lab.claims.page import write
from hiddenkey.lab.claims.plan import Claim, Scale
from hiddenkey.lab.compare import survey
from hiddenkey.lab.compare.coordinator import Coordinator
from hiddenkey.lab.compare.renamed import under_its_name
from hiddenkey.lab.compare.survey import JobRow
from hiddenkey.lab.evidence.inference import FEWEST
from hiddenkey.lab.evidence.planning import MOST
from hiddenkey.lab.plans.data import Data
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.present.words import duration
from hiddenkey.lab.queue.storage import storage_errors
from hiddenkey.lab.run.limits import WORKERS
from hiddenkey.lab.tasks import TASKS

_FAILED = 1
_MOST_WORKERS = 4


def run(options: ClaimsOptions) -> int:
    """Run what is missing, write the page and return the exit status: 1 if a run failed."""
    folder = reading.default_folder() if options.plans is None else Path(options.plans)
    claims, scale = reading.read_plans(folder, options.scale, options.claims)
    scale = _with_seeds(scale, options.seeds)
    store = under_its_name(_store(options, scale))
    data, local = Data(), _local(options, scale)
    outline = EvidenceOutline(store.name, claims, scale, data, local)
    if faults := data.faults(outline.settings(), models=not options.page_only):
        raise ConfigError(faults)
    console = standard_console()
    problems: list[str] = []
    if not options.page_only:
        _show_plan(console, claims, scale)
        _show_power(console, claims, scale)
        if options.dry_run:
            _show_rest(console, outline, data, store)
            return 0
        with (
            storage_errors(store.job_store),
            interrupted_by_sigterm(),
            Coordinator(store, outline) as work,
        ):
            work_off(console, work, local, (), store.workers)
            problems = work.problems()
    states = survey.look(store, outline).get(store.name, {})
    _tell(console, gather(claims, scale, outline, states, _command(options)), store)
    for problem in problems:
        say(console, problem)
    return _FAILED if problems else 0


def _with_seeds(scale: Scale, number: int | None) -> Scale:
    """The scale with as many seeds: its own first, then the numbers after the largest of them."""
    if number is None or number == len(scale.seeds):
        return scale
    most = reading.MOST_SEEDS
    if not 1 <= number <= most:
        raise ConfigError(f"seeds must be from 1 to {most}, got {number}; a verdict needs {FEWEST}")
    after = max(scale.seeds) + 1
    seeds = (*scale.seeds, *range(after, after + number))[:number]
    summary = f"{scale.summary}; here with {number} seed{'s' if number > 1 else ''}"
    return dataclasses.replace(scale, seeds=seeds, summary=summary)


def _store(options: ClaimsOptions, scale: Scale) -> Plan:
    """Where the jobs are kept and shared out; the runs themselves are the outline's."""
    output = options.output or str(Path("runs") / "claims" / scale.name)
    return Plan(
        tasks=(),
        output=output,
        storage=options.storage,
        study=f"claims {Path(output).resolve().name}",
        workers=_workers(options),
        retry_failed=options.retry_failed,
    )


def _workers(options: ClaimsOptions) -> int:
    import torch

    if options.workers is not None:
        if not WORKERS.holds(options.workers):
            rule = f"workers must be {WORKERS.rule}, got {options.workers}"
            raise ConfigError(f"{rule}; {WORKERS.hint}")
        return options.workers
    return 1 if torch.accelerator.is_available() else min(os.cpu_count() or 1, _MOST_WORKERS)


def _local(options: ClaimsOptions, scale: Scale) -> dict[str, dict[str, Any]]:
    """Where this machine has the data, by task."""
    if options.data is None:
        return {}
    names = {str(setup.options["task"]) for setup in scale.tasks.values()} & {*TASKS}
    return {name: {"data": options.data} for name in names if TASKS[name].needs == "folder"}


def _command(options: ClaimsOptions) -> str:
    words = ["hiddenkey", "claims", *options.claims, "--scale", options.scale]
    words += ["--seeds", str(options.seeds)] if options.seeds is not None else []
    words += ["--data", "DATA_FOLDER"] if options.data is not None else []
    words += ["--plans", options.plans] if options.plans is not None else []
    return shlex.join(words)


def _tell(console: Console, evidence: Evidence, store: Plan) -> None:
    title = f"claims at scale {evidence.scale.name}, {evidence.runs} runs"
    table = plain_table(title, left=["claim", "what it says", "verdict"])
    for finding in evidence.findings:
        missing = f" ({finding.missing} runs missing)" if finding.missing else ""
        table.add_row(finding.claim.name, finding.claim.title, finding.verdict + missing)
    console.print(table)
    page = write(evidence, Path(store.output) / "page")
    say(console, f"page: {page}")


def _show_plan(console: Console, claims: Sequence[Claim], scale: Scale) -> None:
    table = plain_table(
        f"claims at scale {scale.name}: {scale.summary}",
        left=["claim", "what it says", "tasks"],
        right=["configurations", "runs"],
    )
    for claim in claims:
        trained = len(claim.configurations)
        runs = len(claim.tasks) * trained * len(scale.seeds)
        table.add_row(claim.name, claim.title, ", ".join(claim.tasks), str(trained), str(runs))
    console.print(table)


def _show_power(console: Console, claims: Sequence[Claim], scale: Scale) -> None:
    """Say what the planned seeds can show, and how many would do."""
    numbers = ["seeds", "margin", "shown from", "seeds for the margin"]
    title = "what the seeds can show of a question, with 80 % chance"
    table = plain_table(title, left=["claim", "question"], right=numbers)
    for claim in claims:
        for power in expected_power(claim, scale):
            design, least = power.design, power.design.detectable()
            shown = f"{least:.2f}" if math.isfinite(least) else "none"
            needed = str(power.needed or f"over {MOST}")
            counts = str(design.pairs), f"{power.contrast.margin:g}", shown, needed
            table.add_row(claim.name, power.contrast.name, *counts)
    if table.row_count:  # of losses and step times no deviation is known beforehand
        console.print(table)
        scatter = scale.power
        deviation = f"{scatter.deviation:g} percentage points ({scatter.source})"
        taken = "taking the difference of two configurations on one task to vary by"
        say(console, f"{taken} {deviation}")
    if len(scale.seeds) < FEWEST:
        say(console, f"no verdict can be reached: that takes {FEWEST} seeds or more")


def _show_rest(console: Console, outline: EvidenceOutline, data: Data, store: Plan) -> None:
    use_threads_of_one(store.workers)
    rows = survey.survey(outline, survey.look(store, outline), PlainCosts(data))
    show_jobs(console, rows, max(outline.total, len(rows)), _name, store.output, store.workers)
    left = [row for row in rows if row.what == "run" and not row.options.holdout and not row.done]
    if left:
        seeds = len({row.options.seed for row in left})
        each = sum(row.seconds for row in left) / seeds / store.workers
        say(console, f"a seed of every configuration takes about {duration(each)}")


def _name(row: JobRow) -> tuple[str, str]:
    what = "choice" if row.options.holdout else row.what
    return f"{row.options.task}, {row.options.model}", what
