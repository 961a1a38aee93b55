"""The sweep: every type that was asked for, in worker processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from hiddenkey.compat.examine import examine, prepare
from hiddenkey.compat.record import Row, Verdict
from hiddenkey.compat.types import Task, all_types, class_names, tasks_of
from hiddenkey.errors import ConfigError
from hiddenkey.framework.config import not_one_of
from hiddenkey.lab.queue.isolated import Outcome, run_jobs


def choose(types: Sequence[str], tasks: Sequence[Task]) -> list[tuple[str, Task]]:
    """Return which types to sweep on which tasks.

    Args:
        types: names of types; empty for all that have one of the tasks.
        tasks: each type is swept on all of these that it has; empty for the one task that it is
            mainly used for.

    Raises:
        ConfigError: if there is no such type, or it has none of the tasks.
    """
    known = all_types()
    faults = [not_one_of("types", name, known) for name in types if name not in known]
    if faults:
        raise ConfigError(faults)
    if not tasks:
        return [(name, tasks_of(name)[0]) for name in types or known]
    listed = {task: class_names(task) for task in tasks}
    for name in types:
        if not any(name in names for names in listed.values()):
            faults.append(
                f"tasks must hold one that {name!r} is listed under ({', '.join(tasks_of(name))}),"
                f" got {', '.join(tasks)}"
            )
    if faults:
        raise ConfigError(faults)
    return [(name, task) for name in types or known for task in tasks if name in listed[task]]


def sweep(chosen: Iterable[tuple[str, Task]], *, jobs: int, limit: float) -> Iterator[Row]:
    """Examine types in worker processes and yield their rows as they come.

    Args:
        chosen: types and tasks.
        jobs: number of processes.
        limit: seconds for one type.
    """
    for outcome in run_jobs(examine, chosen, workers=jobs, limit=limit, prepare=prepare):
        yield _row(outcome)


def _row(outcome: Outcome) -> Row:
    seconds = round(outcome.seconds, 1)
    if outcome.ending == "returned":
        return dataclasses.replace(cast(Row, outcome.value), seconds=seconds)
    model_type, task = outcome.job
    verdict: Verdict = "fails" if outcome.ending == "raised" else outcome.ending
    return Row(model_type, task, verdict, str(outcome.value), seconds=seconds)
