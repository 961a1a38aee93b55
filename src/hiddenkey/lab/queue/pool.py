"""The worker processes of one machine.

They are spawned, share the processor's cores and end with the command: on request, or by themselves
when the command was killed. A worker that dies is replaced.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.queue.interrupts import came_of_interrupt, interrupt, interrupts_arrive

_PATIENCE_SECONDS: Final = 30
_MOST_DEATHS_EACH: Final = 12


class Pool:
    """Keeps some worker processes going.

    Args:
        work: what each of them calls; importable by its name. It is interrupted at the end.
        argument: what ``work`` is called with; it travels to the process.
        workers: how many.
    """

    def __init__(self, work: Callable[[Any], None], argument: object, workers: int) -> None:
        self._context = get_context("spawn")
        # What it names is imported late: a worker must first know how to end.
        self._work = pickle.dumps((work, argument))
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
        process = self._context.Process(target=_serve, args=(self._work, there), daemon=False)
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


def _serve(pickled: bytes, messages: Connection) -> None:
    """Main function of a worker process."""
    _end_with_parent()
    # Ctrl-C reaches the whole group; the command alone decides, and then sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        with interrupts_arrive():
            work, argument = pickle.loads(pickled)
            work(argument)
    except KeyboardInterrupt:
        return
    except ConfigError as error:
        messages.send(error.faults)
    except Exception as error:
        if not came_of_interrupt(error):
            raise


def _end_with_parent() -> None:
    """End this process as soon as the command is gone, even if it was killed."""
    parent = parent_process()
    if parent is None:
        return

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
