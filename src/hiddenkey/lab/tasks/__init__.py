"""The tasks by name. A new task is one entry here; a new family is one file beside this one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from hiddenkey.lab.tasks import generation, glue, news, own, short_texts
from hiddenkey.lab.tasks.base import Example, Kind, Source, Splits, Task

__all__ = ["TASKS", "Example", "Kind", "Source", "Splits", "Task", "find_task"]

_ALL: Final = (
    *(news.HEADLINES, news.ARTICLES),
    *glue.TASKS,
    *short_texts.TASKS,
    *(generation.E2E, generation.WEBNLG),
    *(own.FILE, own.COMPLETION),
)
TASKS: Final[Mapping[str, Task]] = MappingProxyType({task.name: task for task in _ALL})


def find_task(name: str, source: Source) -> Task:
    """Return the task of that name, made concrete for the user's own files."""
    return own.resolve(source) if name == own.FILE.name else TASKS[name]
