"""The tasks by name. A new task is one entry here; a new family is one file beside this one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from hiddenkey.lab.tasks import completion, generation, glue, news, own
from hiddenkey.lab.tasks.base import Example, Kind, Source, Splits, Task

__all__ = ["TASKS", "Example", "Kind", "Source", "Splits", "Task", "find_task"]

TASKS: Final[Mapping[str, Task]] = MappingProxyType(
    {
        task.name: task
        for task in (
            news.HEADLINES,
            news.ARTICLES,
            glue.COLA,
            glue.RTE,
            glue.SST2,
            glue.STSB,
            glue.MRPC,
            glue.QNLI,
            generation.E2E,
            generation.WEBNLG,
            own.FILE,
            completion.COMPLETION,
        )
    }
)


def find_task(name: str, source: Source) -> Task:
    """Return the task of that name, made concrete for the user's own files."""
    resolve = {own.FILE.name: own.resolve, completion.COMPLETION.name: completion.resolve}.get(name)
    return TASKS[name] if resolve is None else resolve(source)
