"""``hiddenkey claims``: evidence for the paper's claims, and one page of verdicts."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hiddenkey.cli.options import ClaimsOptions
from hiddenkey.cli.running import duration, interrupted_by_sigterm, work_off
from hiddenkey.cli.terminal import plain_table, say, standard_console
from hiddenkey.errors import ConfigError
from hiddenkey.lab.claims import reading
from hiddenkey.lab.claims.estimate import estimate
from hiddenkey.lab.claims.evidence import gather
from hiddenkey.lab.claims.findings import Evidence
from hiddenkey.lab.claims.outline import EvidenceOutline
from hiddenkey.lab.claims.plan import Claim, Scale
from hiddenkey.lab.claims.writing import write
from hiddenkey.lab.compare import survey
from hiddenkey.lab.compare.coordinator import Coordinator
from hiddenkey.lab.evidence.inference import FEWEST
from hiddenkey.lab.plans.data import Data
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.queue.jobs import State
from hiddenkey.lab.queue.storage import storage_errors
from hiddenkey.lab.tasks import TASKS

_FAILED = 1
_MOST_WORKERS = 4


def run(options: ClaimsOptions) -> int:
    """Run what is missing, write the page and return the exit status: 1 if a run failed."""
    folder = reading.default_folder() if options.plans is None else Path(options.plans)
    claims, scale = reading.read_plans(folder, options.scale, options.claims)
    scale = _with_seeds(scale, options.seeds)
    store = _store(options, scale)
    data, local = Data(), _local(options, scale)
    outline = EvidenceOutline(store.name, claims, scale, data, local)
    if faults := data.faults(outline.settings()):
        raise ConfigError(faults)
    console = standard_console()
    if options.dry_run:
        _show(console, claims, scale, outline, data, store)
        return 0
    command = _command(options)
    if options.page_only:
        states = survey.look(store, outline).get(store.name, {})
        _tell(console, gather(claims, scale, outline, states, command), store)
        return 0
    with (
        storage_errors(store.job_store),
        interrupted_by_sigterm(),
        Coordinator(store, outline) as work,
    ):
        work_off(console, store, work, local)
        problems = work.problems()
    states = survey.look(store, outline).get(store.name, {})
    _tell(console, gather(claims, scale, outline, states, command), store)
    for problem in problems:
        say(console, problem)
    return _FAILED if problems else 0


def _with_seeds(scale: Scale, number: int | None) -> Scale:
    """The scale with as many seeds: its own first, then the numbers after the largest of them."""
    if number is None or number == len(scale.seeds):
        return scale
    if number < 1:
        raise ConfigError(f"seeds must be at least 1, got {number}; a verdict needs {FEWEST}")
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
        if options.workers < 1:
            raise ConfigError(f"workers must be at least 1, got {options.workers}; give more")
        return options.workers
    return 1 if torch.accelerator.is_available() else min(os.cpu_count() or 1, _MOST_WORKERS)


def _local(options: ClaimsOptions, scale: Scale) -> dict[str, dict[str, Any]]:
    """Where this machine has the data, by task."""
    names = {str(setup.options["task"]) for setup in scale.tasks.values()}
    if options.data is None:
        return {}
    return {name: {"data": options.data} for name in names if _is_in_folder(name)}


def _is_in_folder(task: str) -> bool:
    return task in TASKS and TASKS[task].needs == "folder"


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


def _show(
    console: Console,
    claims: Sequence[Claim],
    scale: Scale,
    outline: EvidenceOutline,
    data: Data,
    store: Plan,
) -> None:
    states: Mapping[str, State] = survey.look(store, outline).get(store.name, {})
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
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    rows = estimate(outline, data, states, store)
    for row in rows:
        groups[row.task, row.what].append(row.seconds)
    title = "what is left to do; claims share the runs of a configuration"
    times = plain_table(title, left=["task", "what"], right=["jobs", "s each"])
    for (task, what), seconds in groups.items():
        times.add_row(task, what, str(len(seconds)), f"{sum(seconds) / len(seconds):.1f}")
    console.print(times)
    whole = sum(row.seconds for row in rows) / store.workers
    say(
        console,
        f"{len(rows)} of {outline.total} jobs are left: about {duration(whole)} with"
        f" {store.workers} worker{'s' if store.workers > 1 else ''}, from a few timed steps",
    )
