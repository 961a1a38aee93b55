"""Calls a function on many inputs in processes of their own, each with a time limit.

An input that makes its process die, hang or run out of memory costs that input alone: the process
is replaced, and what happened is the input's outcome.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from typing import Any, Final, Literal

_START_SECONDS: Final = 300.0
_MEMORY_BYTES: Final = 12 * 2**30
"""Address space of a process, so that one input cannot take the machine's memory."""

Ending = Literal["returned", "raised", "crashed", "timed out"]


@dataclass(frozen=True)
class Outcome:
    """What came of one input.

    Attributes:
        job: the input.
        ending: how it ended.
        value: what the function returned; else what happened, in words.
        seconds: how long it took.
    """

    job: Any
    ending: Ending
    value: Any
    seconds: float


def run_jobs(
    function: Callable[..., Any],
    jobs: Iterable[tuple[Any, ...]],
    *,
    workers: int,
    limit: float,
    prepare: Callable[[], None] | None = None,
) -> Iterator[Outcome]:
    """Call a function with each tuple of arguments and yield the outcomes as they come.

    Args:
        function: importable by its name, as are its arguments and what it returns.
        jobs: the arguments of each call.
        workers: number of processes.
        limit: seconds for one call; the process is killed then.
        prepare: called once in each process before its first job, not within the limit.

    Raises:
        RuntimeError: if a process cannot be started.
    """
    waiting = list(jobs)
    pool = [_Worker(function, prepare, limit) for _ in range(min(workers, len(waiting)))]
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in pool:
        idle.put(worker)

    def call(job: tuple[Any, ...]) -> Outcome:
        worker = idle.get()
        try:
            return worker.call(job)
        finally:
            idle.put(worker)

    # a thread for each process, which waits for it
    threads = ThreadPoolExecutor(max(1, len(pool)))
    try:
        for future in as_completed([threads.submit(call, job) for job in waiting]):
            yield future.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in pool:
            worker.close()
        threads.shutdown()


class _Worker:
    """One process and its successors."""

    def __init__(
        self, function: Callable[..., Any], prepare: Callable[[], None] | None, limit: float
    ) -> None:
        self._serve = (function, prepare, limit)
        self._limit = limit
        self._process: SpawnProcess | None = None
        self._pipe: Connection
        self._is_closed = False

    def call(self, job: tuple[Any, ...]) -> Outcome:
        """Let the process do a job; start one if there is none."""
        process = self._process or self._start()
        begun = time.monotonic()
        ending: Ending = "timed out"
        value: Any = f"no result after {self._limit:g} seconds"
        try:
            self._pipe.send(job)
            if self._pipe.poll(self._limit):
                ending, value = self._pipe.recv()
        except (EOFError, ConnectionError):
            process.join()
            ending, value = "crashed", _cause_of_death(process.exitcode)
        if ending in ("crashed", "timed out"):
            self._kill()
        return Outcome(job, ending, value, time.monotonic() - begun)

    def close(self) -> None:
        """End the process, and start none from now on."""
        self._is_closed = True
        self._kill()

    def _start(self) -> SpawnProcess:
        context = get_context("spawn")
        self._pipe, there = context.Pipe()
        process = self._process = context.Process(
            target=_serve, args=(there, *self._serve), daemon=True
        )
        process.start()
        there.close()
        try:
            is_ready = not self._is_closed and self._pipe.poll(_START_SECONDS)
            if is_ready:
                self._pipe.recv()
        except (EOFError, ConnectionError):
            is_ready = False
            process.join()
        if not is_ready:
            reason = _cause_of_death(process.exitcode)
            self._kill()
            raise RuntimeError(f"a worker process could not be started: {reason}")
        return process

    def _kill(self) -> None:
        if self._process is not None and self._process.pid is not None:
            self._process.kill()
            self._process.join()
        self._process = None


def _cause_of_death(status: int | None) -> str:
    if status is not None and status < 0:
        return f"the process was ended by {signal.Signals(-status).name}"
    return f"the process ended with status {status}"


def _serve(
    messages: Connection,
    function: Callable[..., Any],
    prepare: Callable[[], None] | None,
    limit: float,
) -> None:
    """Main function of a process."""
    nowhere = _keep_quiet()
    _limit_memory()
    if prepare is not None:
        prepare()
    messages.send("ready")
    while True:
        try:
            job = messages.recv()
        except EOFError:  # the command is gone
            return
        # should the command be killed in the meantime, nobody else would end a call that hangs
        faulthandler.dump_traceback_later(2 * limit, exit=True, file=nowhere)
        try:
            result = ("returned", function(*job))
        except Exception as error:
            result = ("raised", f"{type(error).__name__}: {error}")
        faulthandler.cancel_dump_traceback_later()
        messages.send(result)


def _keep_quiet() -> int:
    """Send what is printed nowhere, and return that: the command's output is a table or JSON."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for standard in (1, 2):
        os.dup2(nowhere, standard)
    return nowhere


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = _MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(_MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
