"""What every ``hiddenkey compare`` does beside its workers.

It queues what is missing, takes over what was abandoned and collects the records of all machines.

Any number of commands may do this for one study at the same time: each step may be repeated, and a
job that two of them queue is done once.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from hiddenkey.lab.compare.archive import Archive, buried, records_of
from hiddenkey.lab.compare.outline import States
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.plans.agreement import agree
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.queue import jobs
from hiddenkey.lab.queue.folder import WorkFolder
from hiddenkey.lab.queue.jobs import Job, State
from hiddenkey.lab.queue.storage import open_storage, open_study

_AHEAD: Final = 64
"""Most jobs that wait in a study at a time: each worker reads them all when it takes one."""

_UNSIGNED: Final = "clock started"


class Jobs(Protocol):
    """What there is to do; :class:`hiddenkey.lab.compare.outline.Outline` is a comparison's."""

    @property
    def studies(self) -> list[str]:
        """Names of the studies; the last one holds the runs that are compared."""

    @property
    def total(self) -> int:
        """How many jobs there will be if none of them fails."""

    def jobs(self, look: States) -> dict[str, list[Job]]:
        """The jobs that can be named by now, by study, in the order to do them."""

    def unnamed(self, look: States) -> list[Job]:
        """The jobs that cannot be named yet, with what is still open at a first guess."""

    def blocked(self, look: States) -> list[str]:
        """Which runs cannot be, because what they wait for failed."""


@dataclass(frozen=True)
class Progress:
    """Where a comparison stands.

    Attributes:
        done: jobs that are finished or failed.
        total: all jobs of the plan.
        running: jobs that some worker has.
        new: records that came since the last look.
        finished: nothing is left to do.
        left: the jobs that are not done, as far as they can be named.
    """

    done: int
    total: int
    running: int
    new: tuple[Record, ...]
    finished: bool
    left: tuple[Job, ...] = ()


class Coordinator:
    """Keeps the studies of a plan in step with what the plan wants.

    Args:
        plan: the plan, whose faults have been looked for.
        outline: its jobs.

    Raises:
        ConfigError: if the folder cannot be written, the storage cannot be reached, or the folder
            was begun with a plan that this one contradicts.
    """

    def __init__(self, plan: Plan, outline: Jobs) -> None:
        self._outline = outline
        self.store = plan.job_store
        self.folder = WorkFolder(self.store.folder)
        self.folder.prepare()
        self._storage = open_storage(self.store)
        opened = {name: open_study(self._storage, name) for name in outline.studies}
        self.studies = {name: study for name, (study, _) in opened.items()}
        self._main, created = opened[plan.name]
        agree(self._main, plan, created=created)
        self._archive = Archive(self.folder.path)
        self._look: dict[str, dict[str, State]] = {}
        self._see()
        self._withdraw()
        if plan.retry_failed:
            self._retry_failed()
        self._collect()

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the storage."""
        self._storage.engine.dispose()

    def advance(self) -> Progress:
        """Look at the studies once, and do what is due."""
        self._see()
        wanted = self._wanted
        new = self._collect()
        for name, listed in wanted.items():
            self._queue(self.studies[name], listed, self._look[name])
        every = [(job, self._look[name].get(job.key)) for name in wanted for job in wanted[name]]
        states = [state for _, state in every]
        left = tuple(job for job, state in every if state is None or not state.done)
        done = len(every) - len(left)
        return Progress(
            done=done,
            total=max(self._outline.total, len(states)),
            running=sum(state is not None and state.status == "running" for state in states),
            new=tuple(new),
            finished=not left,
            left=left,
        )

    def records(self) -> list[Record]:
        """The records of the plan's compared runs so far, in the plan's order."""
        name = self._main.study_name
        return records_of(self._wanted[name], self._look[name])

    def problems(self) -> list[str]:
        """What failed beside the compared runs themselves."""
        said = self._outline.blocked(self._look)
        for name in self.studies:
            listed = [job for job in self._wanted[name] if job.kind != "run"]
            states = [self._look[name].get(job.key) for job in listed]
            failed = [s.trial for s in states if s is not None and s.status == "failed" and s.trial]
            if failed:
                last = failed[-1].user_attrs[jobs.ERROR]
                said.append(f"{len(failed)} of {len(listed)} jobs of {name!r} failed ({last})")
        return said

    def may_retry(self) -> bool:
        """Whether a job failed that might succeed when it is done again."""
        return any(
            (state := self._look[name].get(job.key)) is not None and state.status == "failed"
            for name, listed in self._wanted.items()
            for job in listed
        )

    def other_runs(self) -> int:
        """How many finished runs of the folder are not in this plan."""
        name = self._main.study_name
        known = {job.key for job in self._wanted[name]}
        return sum(
            key not in known and state.status == "finished" and not key.startswith("cost-")
            for key, state in self._look[name].items()
        )

    @property
    def _wanted(self) -> dict[str, list[Job]]:
        """The plan's jobs by study, as far as they can be named."""
        return self._outline.jobs(self._look)

    def _see(self) -> None:
        """Queue the jobs again whose workers are gone, and read the studies."""
        for study in self.studies.values():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                optuna.storages.fail_stale_trials(study)
        self._trials = {name: self._read(study) for name, study in self.studies.items()}
        self._look = {name: jobs.states(trials) for name, trials in self._trials.items()}

    def _read(self, study: optuna.Study) -> list[FrozenTrial]:
        """Return all trials of a study; reading the waiting ones takes most of a look's time."""
        trials: list[FrozenTrial] = study.get_trials(deepcopy=False)
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        given_up = [trial for trial in running if self._watch(study, trial)]
        return study.get_trials(deepcopy=False) if given_up else trials

    def _watch(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Give up a running trial whose worker is known to be gone; return whether it was so."""
        owner = jobs.owner(trial)
        here = {"machine": platform.node(), "folder": self.folder.identity}
        if owner is None:
            # Killed between taking the trial and its first sign of life, a worker leaves a trial
            # that Optuna never calls stale. One sign in its name starts the clock.
            if trial.user_attrs.get(_UNSIGNED) != trial.number:
                with suppress(UpdateFinishedTrialError):
                    self._storage.set_trial_user_attr(trial._trial_id, _UNSIGNED, trial.number)
                    self._storage.record_heartbeat(trial._trial_id)
        elif all(owner[name] == value for name, value in here.items()) and self.folder.is_free(
            trial.user_attrs["job"]
        ):
            self._give_up(study, trial)  # no need to wait until its heartbeat is old
            return True
        return False

    def _give_up(self, study: optuna.Study, trial: FrozenTrial) -> None:
        try:
            self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:  # it ended well, or another command was faster
            return
        queue_again = self._storage.get_heartbeat_stale_trial_callback()
        if queue_again is not None:
            queue_again(study, self._storage.get_trial(trial._trial_id))

    def _withdraw(self) -> None:
        """Take jobs out of the queue that the plan no longer has."""
        for name, wanted in self._wanted.items():
            keys = {job.key for job in wanted}
            for key, state in self._look[name].items():
                if state.status == "waiting" and key not in keys and state.trial:
                    with suppress(UpdateFinishedTrialError):
                        number = state.trial._trial_id
                        self._storage.set_trial_state_values(number, TrialState.PRUNED)

    def _retry_failed(self) -> None:
        for name, wanted in self._wanted.items():
            for job in wanted:
                state = self._look[name].get(job.key)
                if state is not None and state.status in ("failed", "lost"):
                    jobs.enqueue(self.studies[name], job, state.trial)

    def _queue(
        self, study: optuna.Study, wanted: Sequence[Job], states: Mapping[str, State]
    ) -> None:
        room = _AHEAD - sum(state.status == "waiting" for state in states.values())
        for job in wanted:
            state = states.get(job.key, State("missing"))
            if state.status == "lost":
                study.add_trial(buried(job, state))
            elif state.status == "missing" and not self._revive(study, job) and room > 0:
                jobs.enqueue(study, job, state.trial)
                room -= 1

    def _revive(self, study: optuna.Study, job: Job) -> bool:
        """Take a finished run from its record where the study has forgotten it."""
        trial = self._archive.revive(job)
        if trial is not None:
            study.add_trial(trial)
        return trial is not None

    def _collect(self) -> list[Record]:
        """Write the records of all workers, on whatever machine, into the folder."""
        return [
            record
            for name, trials in self._trials.items()
            for record in self._archive.collect(name, trials)
        ]
