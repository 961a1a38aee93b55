"""What the commands that train many runs share: the workers, a line per run, a tidy end."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.console import Console

from hiddenkey.cli.live import Board
from hiddenkey.cli.terminal import number, plain_table, say
from hiddenkey.lab.compare.assignment import Assignment, work_on
from hiddenkey.lab.compare.coordinator import Coordinator, Progress
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.plans.command import command_label
from hiddenkey.lab.plans.identity import label, options_from
from hiddenkey.lab.present.words import duration, numbers
from hiddenkey.lab.queue.interrupts import interrupt
from hiddenkey.lab.queue.pool import Pool
from hiddenkey.lab.queue.storage import outlast_outages

if TYPE_CHECKING:
    from hiddenkey.lab.compare.survey import JobRow

_POLL_SECONDS = 0.5
_POLL_SHARE = 0.1
_LONGEST_PAUSE = 15.0
_FRAME_SECONDS = 0.25


def work_off(
    console: Console,
    coordinator: Coordinator,
    local: Mapping[str, Mapping[str, Any]],
    shown: Sequence[str],
    workers: int,
) -> None:
    """Let workers do all jobs, and say what came out of each run.

    Args:
        console: where to say it.
        coordinator: queues the jobs.
        local: settings of this machine, by task.
        shown: settings that a line names beside task, method and seed.
        workers: how many.
    """
    progress = coordinator.advance()
    say(
        console,
        f"{progress.total} jobs, {progress.done} of them done; folder {coordinator.store.folder}",
    )
    if progress.finished:
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    studies = tuple(coordinator.studies)
    with _live(console) as live, Board(console, live, workers) as board:
        assignment = Assignment(coordinator.store, studies, local, threads, live)
        board.time.learn(coordinator.records())
        with Pool(work_on, assignment, workers) as pool:
            while not progress.finished:
                pool.check()
                started = time.perf_counter()
                progress = outlast_outages(coordinator.store, coordinator.advance)
                board.ended(progress, [line(record, shown) for record in progress.new])
                board.draw(progress, pool.processes)
                if not progress.finished:
                    _pause(pause_after(time.perf_counter() - started), board, progress, pool)


@contextmanager
def _live(console: Console) -> Iterator[Path | None]:
    """A passing folder in which workers tell what they do, where somebody sees it."""
    if not console.is_terminal:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="hiddenkey-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _pause(seconds: float, board: Board, progress: Progress, pool: Pool) -> None:
    """Leave the database to the workers, and let the board move meanwhile."""
    until = time.perf_counter() + seconds
    while (left := until - time.perf_counter()) > 0:
        board.draw(progress, pool.processes)
        time.sleep(min(left, _FRAME_SECONDS))


def pause_after(seconds: float) -> float:
    """Return how long to leave the database to the workers after a look at the study.

    A large study takes a moment to read, so looks shall take a tenth of the time. A busy machine
    may make one look last a minute, and must not make the command sleep for ten.

    Args:
        seconds: how long the look took.
    """
    return min(max(_POLL_SECONDS, seconds / _POLL_SHARE), _LONGEST_PAUSE)


def line(record: Record, also: Sequence[str]) -> str:
    """Say in one line what came out of a run."""
    what = name_of(record, also)
    if record.stage == "search":
        rate = record.options.get("learning_rate")
        what += f", search at learning rate {rate:.2g}" if isinstance(rate, float) else ", search"
    if record.result is None:
        how = "diverged, counts as worst" if record.counts_as_worst else "failed"
        return f"{how}: {what}: {record.reason}"
    summary = record.result.metrics[record.result.main_metric]
    seconds = record.result.seconds_per_step
    return (
        f"{what}: {record.result.main_metric} best {number(summary.best)}, last"
        f" {number(summary.last)}{f', {seconds:.3f} s/step' if seconds else ''}"
    )


def name_of(record: Record, also: Sequence[str], *, seed: bool = True) -> str:
    """Name a record's run; see ``label`` and ``command_label``."""
    if record.is_command:
        return command_label(record.options, seed=seed)
    name = label(options_from(record.options), also, seed=seed)
    return name + (", time-matched" if record.budget == "time" else "")


def use_threads_of_one(workers: int) -> None:
    """Let this process have the threads that each of so many workers will have."""
    import torch

    from hiddenkey.quiet import quiet

    quiet()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


def show_jobs(
    console: Console,
    rows: Sequence[JobRow],
    total: int,
    name: Callable[[JobRow], tuple[str, str]],
    output: str,
    workers: int,
) -> None:
    """Say what jobs there are and how long the rest takes.

    Args:
        console: where to say it.
        rows: the jobs.
        total: how many there will be.
        name: what a line says of a job: what it is of, and what it does.
        output: folder of the jobs.
        workers: how many share them.
    """
    groups: dict[tuple[str, str], list[JobRow]] = defaultdict(list)
    for row in rows:
        groups[name(row)].append(row)
    table = plain_table(
        f"{len(rows)} jobs of {output}",
        left=["runs of", "job"],
        right=["done", "failed", "missing", "s each"],
    )
    table.add_column("seeds missing")
    for (task, what), found in groups.items():
        ended = [sum(row.status == status for row in found) for status in ("finished", "failed")]
        left = [row for row in found if not row.done]
        seconds = f"{fmean(row.seconds for row in left):.1f}" if left else ""
        seeds = numbers(row.options.seed for row in left if "run" in what)
        table.add_row(task, what, *map(str, ended), str(len(left)), seconds, seeds)
    console.print(table)
    whole = sum(row.seconds for row in rows) / workers
    count = sum(not row.done for row in rows)
    say(
        console,
        f"{count} of {total} jobs are left: about"
        f" {duration(whole)} with {workers} worker{'s' if workers > 1 else ''}, from a"
        " few timed steps",
    )


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does: workers give back their runs."""
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
