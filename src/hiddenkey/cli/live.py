"""How far the jobs of a command are: the time that is left, and what each worker does now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from hiddenkey.cli.terminal import say
from hiddenkey.lab.compare.coordinator import Progress as Standing
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.present.words import duration
from hiddenkey.lab.queue.jobs import Job
from hiddenkey.lab.queue.live import Doing, look
from hiddenkey.lab.run.options import TrainOptions

_BAR: Final = 20
_KIND: Final = ("task", "method", "model", "rank")
"""Settings whose runs take about the same time."""


class TimeLeft:
    """Estimates the rest from the runs that are done, each kind of run by its own."""

    def __init__(self) -> None:
        self._seconds: dict[Hashable, list[float]] = defaultdict(list)

    def learn(self, records: Iterable[Record]) -> None:
        """Take the times of runs that ended."""
        for record in records:
            if (seconds := record.wall_seconds) is not None:
                self._seconds[_kind(record.options, record.stage, record.budget)].append(seconds)

    def estimate(self, standing: Standing, workers: int, doing: Sequence[Doing]) -> float | None:
        """Return the seconds that are left; ``None`` as long as no run has ended.

        Args:
            standing: the jobs that are left.
            workers: of this machine.
            doing: what they do; the share of a run that is made is not left.
        """
        if not self._seconds:
            return None
        usual = fmean(each for found in self._seconds.values() for each in found)
        left = [self._of(job, usual) for job in standing.left]
        left += [usual] * (standing.total - standing.done - len(left))
        if not left:
            return 0.0
        made = sum(each.share for each in doing) * fmean(left)
        shared = min(max(workers, standing.running), len(left))
        return max(0.0, sum(left) - made) / shared

    def _of(self, job: Job, usual: float) -> float:
        payload = job.payload
        options = payload.get("options") or payload.get("command") or {}
        stage = "search" if job.kind == "search" else payload.get("stage", "compare")
        found = self._seconds.get(_kind(options, stage, payload.get("budget", "steps")))
        return (fmean(found) if found else usual) * len(payload.get("seeds", (0,)))


class Board:
    """A bar of all jobs with the time left, and below it a line for each worker that moves.

    Lines that move are for terminals; elsewhere a line is printed when runs have ended.

    Args:
        console: where to show it.
        folder: where the workers tell what they do; ``None`` shows no lines of theirs.
        workers: how many there are.
    """

    def __init__(self, console: Console, folder: Path | None, workers: int) -> None:
        self.time = TimeLeft()
        self._console = console
        self._folder = folder
        self._workers = workers
        note = TextColumn("{task.fields[note]}")
        columns = (TextColumn("{task.description}"), BarColumn(_BAR), MofNCompleteColumn(), note)
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._jobs = self._bar.add_task("jobs", note="")
        lines = range(workers if folder is not None else 0)
        self._lines = [self._bar.add_task("", total=None, note="") for _ in lines]

    def __enter__(self) -> Board:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        for line in self._lines:
            self._bar.remove_task(line)
        self._bar.stop()

    def ended(self, standing: Standing, said: Sequence[str]) -> None:
        """Print a line for each run that ended, and without a terminal how far all of it is."""
        self.time.learn(standing.new)
        for words in said:
            say(self._bar.console, words)
        if said and not (self._console.is_terminal or standing.finished):
            left = self._left(standing, ())
            say(self._console, f"{standing.done} of {standing.total} jobs done{left}")

    def draw(self, standing: Standing, processes: Sequence[int]) -> None:
        """Draw how far the jobs are, and what the workers do.

        Args:
            standing: the jobs.
            processes: numbers of the workers' processes.
        """
        seen = [look(self._folder, each) if self._folder else None for each in processes]
        note = self._left(standing, [each for each in seen if each]).removeprefix(", ")
        done, total = standing.done, standing.total
        self._bar.update(self._jobs, total=total, completed=done, note=note)
        for line, doing in zip(self._lines, seen, strict=False):
            shown = doing or Doing("waits for a job")
            self._bar.update(
                line,
                description=shown.what,
                total=shown.steps or None,
                completed=shown.step,
                note=shown.note,
            )

    def _left(self, standing: Standing, doing: Sequence[Doing]) -> str:
        seconds = self.time.estimate(standing, self._workers, doing)
        return "" if seconds is None else f", about {duration(seconds)} left"


def _kind(options: Mapping[str, Any], stage: str, budget: str) -> Hashable:
    """What tells runs apart that take different times; settings at their defaults may lack."""
    named = (options.get(name, getattr(TrainOptions, name)) for name in _KIND)
    return (*named, stage, budget)
