"""Runs a comparison in one process, step by step; importable by processes that tests start."""

import dataclasses
import time

from hiddenkey.lab.compare.coordinator import Coordinator
from hiddenkey.lab.compare.outline import Outline
from hiddenkey.lab.compare.worker import Worker
from hiddenkey.lab.plans.data import check
from hiddenkey.lab.run.result import Result

TIMED = ("seconds", "seconds_per_step", "peak_memory_mib", "evaluation_seconds")


OPEN = []


def begin(plan):
    OPEN.append(Coordinator(plan, Outline(plan, check(plan))))
    return OPEN[-1]


def worker_for(coordinator, local=None):
    return Worker(list(coordinator.studies.values()), coordinator.folder, local or {})


def finish(coordinator, worker=None, seconds=120):
    worker = worker or worker_for(coordinator)
    until = time.monotonic() + seconds
    progress = coordinator.advance()
    while not progress.finished:
        assert time.monotonic() < until, "it never ends"
        if not worker.take_one():
            time.sleep(0.1)
        progress = coordinator.advance()
    return coordinator


def run_here(plan, **changes):
    return finish(begin(dataclasses.replace(plan, **changes)))


def work_in_process(plan):
    """Main function of a process: do what a command with one worker does."""
    import torch

    torch.set_num_threads(1)
    run_here(plan)


def outcomes(records):
    """What runs found, without times."""
    return {record.id: _untimed(record) for record in records}


def _untimed(record):
    result = record.result
    found = result.to_dict() if isinstance(result, Result) else {}
    kept = {name: value for name, value in found.items() if name not in TIMED}
    lines = [{k: v for k, v in line.items() if k not in TIMED} for line in record.metrics]
    return record.status, kept, lines
