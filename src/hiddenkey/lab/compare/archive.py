"""Records between the study, which all machines share, and the folder of one of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.trial import FrozenTrial, TrialState

from hiddenkey.files import write_whole
from hiddenkey.lab.evidence.record import FOLDER, NOT_A_RECORD, Record
from hiddenkey.lab.plans.command import CommandRun
from hiddenkey.lab.plans.identity import Run
from hiddenkey.lab.queue import jobs
from hiddenkey.lab.queue.jobs import Job, State
from hiddenkey.lab.queue.storage import MOST_DEATHS
from hiddenkey.lab.run.result import Result, Worth

WORST: Final = float("-inf")
"""Value of a run whose metric could not be computed, or of a search's run that diverged."""


COSTS: Final = "costs"
"""Folder of the measured costs, beside that of the records: a study's name may change."""

_RATIO: Final = "ratio"


class Archive:
    """The records and measured costs in a comparison's folder.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._collected: set[tuple[str, int]] = set()

    def collect(self, study: str, trials: Iterable[FrozenTrial]) -> list[Record]:
        """Write the records of trials that ended since the last call; return them.

        Args:
            study: name of the study that the trials belong to.
            trials: all its trials.
        """
        new = []
        for trial in trials:
            if trial.state.is_finished() and (study, trial.number) not in self._collected:
                self._collected.add((study, trial.number))
                new += [Record.from_dict(values) for values in jobs.records(trial).values()]
                self._keep_cost(trial)
        for record in new:
            stored = self.read(record.id)
            kept = stored is not None and stored.status == "finished" != record.status
            if stored != record and not kept:
                record.save(self._folder)
        return new

    def read(self, identity: str) -> Record | None:
        """The record of a run, or ``None`` where there is no whole one."""
        try:
            return Record.load(self._folder / FOLDER / f"{identity}.json")
        except NOT_A_RECORD:
            return None

    def revive(self, job: Job) -> FrozenTrial | None:
        """A finished trial of a job whose outcome is here, for a study that has forgotten it."""
        if job.kind == "probe":
            return self._revive_cost(job)
        record = self.read(job.key) if job.kind == "run" else None
        if record is None or record.result is None:
            return None
        attributes = {**job.attributes(), **jobs.record_attribute(record.to_dict())}
        value = worth_of(run_from(job.payload), record.result)
        return optuna.create_trial(state=TrialState.COMPLETE, value=value, user_attrs=attributes)

    def _keep_cost(self, trial: FrozenTrial) -> None:
        ratio = trial.user_attrs.get(_RATIO)
        if ratio is not None and not (path := self._cost(trial.user_attrs["job"])).is_file():
            write_whole(path, json.dumps({_RATIO: ratio}) + "\n")

    def _revive_cost(self, job: Job) -> FrozenTrial | None:
        try:
            ratio = float(json.loads(self._cost(job.key).read_text(encoding="utf-8"))[_RATIO])
        except NOT_A_RECORD:
            return None
        if not 0 < ratio < math.inf:
            return None
        attributes = {**job.attributes(), _RATIO: ratio}
        return optuna.create_trial(state=TrialState.COMPLETE, value=-ratio, user_attrs=attributes)

    def _cost(self, key: str) -> Path:
        return self._folder / COSTS / f"{key}.json"


def records_of(wanted: Iterable[Job], states: Mapping[str, State]) -> list[Record]:
    """Return the records of the runs among some jobs that have ended, in the order of the jobs."""
    found = []
    for job in wanted:
        state = states.get(job.key)
        if job.kind == "run" and state is not None and state.done and state.trial:
            found.append(Record.from_dict(jobs.records(state.trial)[job.key]))
    return found


AnyRun = Run | CommandRun


def run_from(payload: Mapping[str, Any]) -> AnyRun:
    """The run that a job's payload describes."""
    return CommandRun.from_dict(payload) if "command" in payload else Run.from_dict(payload)


def record_of(
    run: AnyRun,
    state: State,
    *,
    result: Result | None = None,
    metrics: Sequence[Mapping[str, Any]] = (),
    environment: Mapping[str, Any] | None = None,
    error: str | None = None,
    observed: Mapping[str, Any] | None = None,
) -> Record:
    """Return the record of a run that ends now: finished if it has a result."""
    return Record(
        id=run.id,
        options=run.options.recorded(),
        stage=run.stage,
        budget=run.budget,
        status="failed" if result is None else "finished",
        result=result,
        metrics=tuple(metrics),
        environment=environment or {},
        error=error,
        attempts=state.begun,
        started=jobs.utc(state.started),
        ended=jobs.utc(None),
        observed=observed or {},
    )


def worth_of(run: AnyRun, result: Result | None, by: Worth = "best") -> float:
    """What a run is worth to Optuna, which looks for the largest value.

    Args:
        run: the run.
        result: what came of it; ``None`` if it diverged.
        by: what counts.
    """
    if result is None:
        return WORST
    lower = isinstance(run, CommandRun) and run.options.lower_is_better
    found = result.worth(by, lower=lower)
    return WORST if found is None else found


def buried(job: Job, state: State) -> FrozenTrial:
    """A failed trial for a job that killed its workers."""
    error = (
        f"its worker died {MOST_DEATHS + 1} times without a message; the system may have killed it"
        " for lack of memory"
    )
    attributes = {**job.attributes(), jobs.ERROR: error}
    if job.kind == "run":
        record = record_of(run_from(job.payload), state, error=error)
        attributes |= jobs.record_attribute(record.to_dict())
    return optuna.create_trial(state=TrialState.FAIL, user_attrs=attributes)
