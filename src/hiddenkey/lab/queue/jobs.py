"""Jobs and the trials that do them: what is queued, running, finished, failed or lost.

A job is one thing to do, such as a run. Optuna may hold several trials for a job: the worker of one
died, or two machines queued the same job at the same moment. The job's state follows from all of
them, and of several living trials the first one counts.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from hiddenkey.lab.queue.storage import MOST_DEATHS

Status = Literal["missing", "waiting", "running", "finished", "failed", "lost"]

ERROR: Final = "error"
"""Attribute of a trial whose job failed by itself; without it a failed trial lost its worker."""

STOPPED: Final = "stopped"
"""Attribute of a trial that was ended on request."""

_OWNER: Final = "owner"
_RECORD: Final = "record "


@dataclass(frozen=True)
class Job:
    """One thing to do.

    Attributes:
        key: its identity in its study.
        kind: what it is.
        payload: what a worker needs to do it, plain JSON types.
        params: numbers and words that are shown as the trial's parameters.
        name: what a person calls it; Optuna's dashboard shows it among the trial's attributes.
    """

    key: str
    kind: str
    payload: Mapping[str, Any]
    params: Mapping[str, float | str]
    name: str = ""

    @classmethod
    def of(cls, trial: FrozenTrial) -> Job | None:
        """The job of a trial; ``None`` if it was drawn when nothing was queued any more."""
        attributes = trial.user_attrs
        if "job" not in attributes:
            return None
        key, kind, payload = (attributes[part] for part in ("job", "kind", "payload"))
        return cls(key, kind, payload, _params(trial), attributes.get("name", ""))

    def attributes(self) -> dict[str, Any]:
        """What a trial carries to name this job."""
        named = {"name": self.name} if self.name else {}
        return {"job": self.key, "kind": self.kind, "payload": dict(self.payload), **named}


@dataclass(frozen=True)
class State:
    """Where a job stands.

    Attributes:
        status: ``lost`` if too many workers died over it.
        trial: the trial that says so; for a missing job the last one, if there was one.
        begun: how often a worker began it.
        started: when the first one did.
    """

    status: Status
    trial: FrozenTrial | None = None
    begun: int = 0
    started: datetime | None = None

    @property
    def done(self) -> bool:
        """Nothing will change unless it is asked for again."""
        return self.status in ("finished", "failed")


def states(trials: Iterable[FrozenTrial]) -> dict[str, State]:
    """Return the state of every job that has a trial."""
    by_job: dict[str, list[FrozenTrial]] = defaultdict(list)
    for trial in trials:
        if "job" in trial.user_attrs and trial.state != TrialState.PRUNED:
            by_job[trial.user_attrs["job"]].append(trial)
    return {key: _state(found) for key, found in by_job.items()}


def _state(trials: Sequence[FrozenTrial]) -> State:
    begun = [trial for trial in trials if trial.state != TrialState.WAITING]
    started = min((t.datetime_start for t in begun if t.datetime_start), default=None)
    status, trial = _status(trials)
    return State(status, trial, len(begun), started)


def _status(trials: Sequence[FrozenTrial]) -> tuple[Status, FrozenTrial]:
    living: list[tuple[TrialState, Status]] = [
        (TrialState.COMPLETE, "finished"),
        (TrialState.RUNNING, "running"),
        (TrialState.WAITING, "waiting"),
    ]
    for state, status in living:
        for trial in trials:
            if trial.state == state:
                return status, trial
    last = trials[-1]
    if ERROR in last.user_attrs:
        return "failed", last
    errors = [trial.number for trial in trials if ERROR in trial.user_attrs]
    deaths = [
        trial
        for trial in trials
        if trial.number > max(errors, default=-1) and STOPPED not in trial.user_attrs
    ]
    return ("lost" if len(deaths) > MOST_DEATHS else "missing"), last


def is_second(trial: FrozenTrial, trials: Iterable[FrozenTrial]) -> bool:
    """Whether another trial does this one's job already; of two, the first one stays."""
    return any(
        other.user_attrs.get("job") == trial.user_attrs["job"]
        and (
            other.state == TrialState.COMPLETE
            or (other.number < trial.number and not other.state.is_finished())
        )
        for other in trials
        if other.number != trial.number
    )


def enqueue(study: optuna.Study, job: Job, before: FrozenTrial | None) -> None:
    """Queue a job; the settings that an earlier trial of it drew are kept."""
    drawn = {} if before is None else _params(before)
    study.enqueue_trial({**job.params, **drawn}, user_attrs=job.attributes())


def _params(trial: FrozenTrial) -> dict[str, float | str]:
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def owner(trial: FrozenTrial) -> Mapping[str, Any] | None:
    """Who works on a running trial, as :func:`sign` left it."""
    found: Mapping[str, Any] | None = trial.user_attrs.get(_OWNER)
    # A trial that was queued again carries the attributes of the one whose worker died.
    return found if found is not None and found["trial"] == trial.number else None


def sign(trial: optuna.Trial, folder: str, process: int) -> None:
    """Put a worker's name on a trial.

    Raises:
        UpdateFinishedTrialError: if the trial was given to another worker meanwhile.
    """
    signature = {"trial": trial.number, "folder": folder, "process": process}
    trial.set_user_attr(_OWNER, {**signature, "machine": platform.node()})


def records(trial: FrozenTrial) -> dict[str, Mapping[str, Any]]:
    """The records in a trial, by the identity of their run."""
    return {
        name.removeprefix(_RECORD): value
        for name, value in trial.user_attrs.items()
        if name.startswith(_RECORD)
    }


def record_attribute(record: Mapping[str, Any]) -> dict[str, Any]:
    """The attribute in which a trial keeps a run's record."""
    return {_RECORD + record["id"]: dict(record)}


def utc(moment: datetime | None) -> str:
    """Write a time of Optuna's, which is local and naive, in ISO 8601; ``None`` means now."""
    return (moment.astimezone(UTC) if moment else datetime.now(UTC)).isoformat(timespec="seconds")
