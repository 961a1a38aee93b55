"""The worker processes of one machine.

They are spawned, share the processor's cores and end with the command: told to, or by themselves
when the command was killed. A worker that dies is replaced.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.plans.plan import Plan

_POLL_SECONDS: Final = 0.5
_PATIENCE_SECONDS: Final = 30
_MOST_DEATHS_EACH: Final = 12


@dataclass(frozen=True)
class Assignment:
    """What a worker process is started with.

    Attributes:
        plan: tells storage and folder.
        studies: names of the studies to work on, the first one first.
        local: settings that differ between machines, by task.
        threads: threads of PyTorch.
    """

    plan: Plan
    studies: tuple[str, ...]
    local: Mapping[str, Mapping[str, Any]]
    threads: int


class Pool:
    """Keeps some worker processes going.

    Args:
        assignment: what each of them does.
        workers: how many.
    """

    def __init__(self, assignment: Assignment, workers: int) -> None:
        self._context = get_context("spawn")
        self._assignment = assignment
        self._deaths = 0
        self._most_deaths = _MOST_DEATHS_EACH * workers
        self._seats = [self._start() for _ in range(workers)]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def processes(self) -> list[int]:
        """Process numbers of the workers."""
        return [process.pid for process, _ in self._seats if process.pid is not None]

    def check(self) -> None:
        """Replace workers that died.

        Raises:
            ConfigError: what a worker could not go on for, or that they keep dying.
        """
        for index, (process, messages) in enumerate(self._seats):
            if process.exitcode is None:
                continue
            if faults := _received(messages):
                raise ConfigError(faults)
            self._deaths += 1
            if self._deaths > self._most_deaths or process.exitcode == 1:
                raise ConfigError(
                    f"workers must live until the end, one ended with status {process.exitcode}"
                    f" ({self._deaths} in all); see the messages above, then run the same command"
                    " again: finished runs are kept"
                )
            self._seats[index] = self._start()

    def stop(self) -> None:
        """End all workers; they give back unfinished runs, which go on at their last checkpoint."""
        for process, _ in self._seats:
            if process.is_alive():
                process.terminate()
        for process, _ in self._seats:
            process.join(_PATIENCE_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()

    def _start(self) -> tuple[SpawnProcess, Connection]:
        here, there = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_serve, args=(self._assignment, there), daemon=False)
        process.start()
        there.close()
        return process, here


def _received(messages: Connection) -> tuple[str, ...]:
    """What a worker that ended had to say; nothing if it was killed."""
    try:
        faults: tuple[str, ...] = messages.recv()
    except EOFError:
        return ()
    return faults


def _serve(assignment: Assignment, messages: Connection) -> None:
    """Main function of a worker process."""
    _end_with_parent()
    # Ctrl-C reaches the whole group; the command alone decides, and then sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _work(assignment)
    except KeyboardInterrupt:
        return
    except ConfigError as error:
        messages.send(error.faults)


def _work(assignment: Assignment) -> None:
    import torch

    from hiddenkey.lab.compare.worker import Worker
    from hiddenkey.lab.queue.folder import ComparisonFolder
    from hiddenkey.lab.queue.storage import open_storage, open_study, storage_errors
    from hiddenkey.quiet import quiet

    torch.set_num_threads(assignment.threads)
    quiet()
    plan = assignment.plan
    storage = open_storage(plan)
    with storage_errors(plan):
        studies = [open_study(storage, name)[0] for name in assignment.studies]
        worker = Worker(studies, ComparisonFolder(Path(plan.output)), assignment.local)
        while True:
            if not worker.take_one():
                time.sleep(_POLL_SECONDS)


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """End this process as soon as the command is gone, even if it was killed."""
    parent = parent_process()
    if parent is None:
        return

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
