"""What a worker process of a comparison does; light, for the process that starts it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hiddenkey.lab.queue.store import JobStore

_POLL_SECONDS: Final = 0.5


@dataclass(frozen=True)
class Assignment:
    """What a worker process is started with.

    Attributes:
        store: where the jobs are.
        studies: names of the studies to work on, the first one first.
        local: settings that differ between machines, by task.
        threads: threads of PyTorch.
        live: folder in which each worker tells what it does; ``None``: nobody looks.
    """

    store: JobStore
    studies: tuple[str, ...]
    local: Mapping[str, Mapping[str, Any]]
    threads: int
    live: Path | None = None


def work_on(assignment: Assignment) -> None:
    """Do jobs as they come, until the process is interrupted."""
    import torch

    from hiddenkey.lab.compare.worker import Worker
    from hiddenkey.lab.queue.folder import WorkFolder
    from hiddenkey.lab.queue.storage import (
        open_storage,
        open_study,
        outlast_outages,
        storage_errors,
    )
    from hiddenkey.quiet import quiet

    torch.set_num_threads(assignment.threads)
    quiet()
    storage = open_storage(assignment.store)
    with storage_errors(assignment.store):
        studies = [open_study(storage, name)[0] for name in assignment.studies]
        folder = WorkFolder(assignment.store.folder)
        worker = Worker(studies, folder, assignment.local, assignment.live)
        while True:
            if not outlast_outages(assignment.store, worker.take_one):
                time.sleep(_POLL_SECONDS)
