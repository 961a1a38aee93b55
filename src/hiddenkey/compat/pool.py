"""Runs a function on many inputs in processes of their own, each with a time limit.

An input that makes its process die, hang or run out of memory costs that input alone: the process
is replaced, and what happened is the input's outcome.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Final, Literal

_READY: Final = "ready"
_START_SECONDS: Final = 300.0
_MEMORY_BYTES: Final = 12 * 2**30
"""Address space of a worker; a model that is not tiny by mistake must not take the machine's."""

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
    waiting = deque(jobs)
    seats = [_Seat(function, prepare, limit) for _ in range(min(workers, len(waiting)))]
    try:
        while seats:
            for seat in _due(seats):
                if outcome := seat.attend():
                    yield outcome
                if seat.job is None and not waiting:
                    seat.stop()
                    seats.remove(seat)
                elif seat.is_ended:
                    seat.start()
                elif seat.job is None:
                    seat.give(waiting.popleft())
    finally:
        for seat in seats:
            seat.stop()


def _due(seats: list[_Seat]) -> list[_Seat]:
    """Wait until some seats have news or are out of time, and return them."""
    patience = max(0.0, min(seat.deadline for seat in seats) - time.monotonic())
    news = connection.wait([seat.messages for seat in seats], patience)
    now = time.monotonic()
    return [seat for seat in seats if seat.messages in news or seat.deadline <= now]


@dataclass
class _Seat:
    """One worker process and its successors.

    Attributes:
        function: what it calls.
        prepare: what it calls first.
        limit: seconds for one call.
        job: arguments of the call at work, or ``None``.
        is_ended: whether the process is gone.
        deadline: until when there must be news of it, on the monotonic clock.
        messages: its end of the pipe.
    """

    function: Callable[..., Any]
    prepare: Callable[[], None] | None
    limit: float
    job: tuple[Any, ...] | None = None
    is_ended: bool = False
    deadline: float = 0.0
    _begun: float = 0.0
    messages: Connection = field(init=False)
    _process: SpawnProcess = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start a process; it says when it is ready."""
        context = get_context("spawn")
        self.messages, there = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(there, self.function, self.prepare, self.limit), daemon=True
        )
        self._process.start()
        there.close()
        self.is_ended = False
        self.deadline = time.monotonic() + _START_SECONDS

    def give(self, job: tuple[Any, ...]) -> None:
        """Let the process begin with a job."""
        self.job = job
        self._begun = time.monotonic()
        self.deadline = self._begun + self.limit
        self.messages.send(job)

    def attend(self) -> Outcome | None:
        """Take the news of the process, or end it if it is out of time."""
        try:
            message = self.messages.recv() if self.messages.poll() else None
        except (EOFError, ConnectionResetError):
            self._process.join()
            return self._end("crashed", _cause_of_death(self._process.exitcode))
        if message is None:
            return self._end("timed out", f"no result after {self.limit:g} seconds")
        if message == _READY:
            return None
        ending, value = message
        return self._outcome(ending, value)

    def stop(self) -> None:
        """End the process."""
        self.is_ended = True
        self._process.kill()
        self._process.join()
        self.messages.close()

    def _end(self, ending: Ending, value: str) -> Outcome:
        if self.job is None:
            raise RuntimeError(f"a worker process could not be started: {value}")
        self.stop()
        return self._outcome(ending, value)

    def _outcome(self, ending: Ending, value: Any) -> Outcome:
        outcome = Outcome(self.job, ending, value, time.monotonic() - self._begun)
        self.job = None
        return outcome


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
    """Main function of a worker process."""
    nowhere = _keep_quiet()
    _limit_memory()
    if prepare is not None:
        prepare()
    messages.send(_READY)
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
    """Send what models print nowhere, and return it: the command's output is a table or JSON."""
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
