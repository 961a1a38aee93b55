"""The runs of a study, each stored as soon as it ends: an interrupted study goes on from there."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from hiddenkey.files import plain, write_whole
from hiddenkey.lab.present.words import count, duration

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class StudyRun:
    """One finished run.

    Attributes:
        settings: all that it depends on.
        values: what it found.
        seconds: how long it took.
        environment: versions and machine.
    """

    settings: Settings
    values: Mapping[str, Any]
    seconds: float
    environment: Mapping[str, Any]


def extrapolated(take: Callable[[int], object], few: int, whole: float) -> float:
    """Return the seconds that a whole run takes, of which what comes before its steps counts once.

    Args:
        take: runs a number of steps, and all that comes before them.
        few: steps that tell; they and three times as many are taken, if the run has more.
        whole: steps of the run.
    """
    if whole <= 3 * few:
        return _timed(take, max(1, round(whole)))
    take(few)  # imports, and what is read from disk for the first time
    first, more = _timed(take, few), _timed(take, 3 * few)
    return first + max(0.0, more - first) / (2 * few) * (whole - few)


def _timed(take: Callable[[int], object], steps: int) -> float:
    started = time.perf_counter()
    take(steps)
    return time.perf_counter() - started


class StudyRuns:
    """The stored runs of a folder, one JSON file each, named by a hash of its settings.

    Args:
        folder: where they are; it is made with the first run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, settings: Settings) -> StudyRun | None:
        """Return the run with these settings; ``None`` if there is none, or it is broken."""
        try:
            found = StudyRun(**json.loads(self._path(settings).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return found if found.settings == plain(settings) else None

    def run(self, settings: Settings, measure: Callable[[], Mapping[str, Any]]) -> StudyRun:
        """Return the stored run, or measure and store it."""
        from hiddenkey.lab.run.environment import environment

        if (found := self.find(settings)) is not None:
            return found
        started = time.perf_counter()
        values = measure()
        seconds = time.perf_counter() - started
        made = StudyRun(plain(settings), plain(values), seconds, environment())
        text = json.dumps(plain(made), indent=1, ensure_ascii=False)
        write_whole(self._path(settings), f"{text}\n")
        return made

    def told(self, planned: Iterable[Settings], seconds: Callable[[Settings], float] | None) -> str:
        """Say how many of the planned runs are there, and how long the others will take.

        Args:
            planned: settings of all runs.
            seconds: an estimate for a run, asked where none like it is stored; ``None``: then
                nothing is said of time, for an estimate takes minutes itself.
        """
        wanted = list(planned)
        found = [self.find(settings) for settings in wanted]
        missing = [s for s, run in zip(wanted, found, strict=True) if run is None]
        stored = [run for run in found if run is not None]
        if not missing:
            return f"{count(len(wanted), 'run')}, all of them stored"
        if stored:
            left, how = len(missing) * fmean(run.seconds for run in stored), "as the stored runs"
        elif seconds is None:
            return f"{count(len(wanted), 'run')}, none stored"
        else:
            left, how = sum(map(seconds, missing)), "by a few steps of each kind"
        return (
            f"{count(len(wanted), 'run')}, {len(stored)} stored; the others take about"
            f" {duration(left)} on this machine as it is now ({how})"
        )

    def _path(self, settings: Settings) -> Path:
        words = json.dumps(plain(settings), sort_keys=True)
        return self._folder / f"{hashlib.sha256(words.encode()).hexdigest()[:16]}.json"
