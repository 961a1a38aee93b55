"""What ``--dry-run`` says: which runs are there, which are missing, how long these will take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import optuna

from hiddenkey.errors import ConfigError
from hiddenkey.lab.compare.archive import Archive, records_of
from hiddenkey.lab.compare.coordinator import Jobs
from hiddenkey.lab.compare.outline import States, steps
from hiddenkey.lab.compare.probe import RunCost, measure, seconds_of_ratio
from hiddenkey.lab.compare.prospects import Prospect, prospects
from hiddenkey.lab.plans.agreement import differences, terms, terms_of
from hiddenkey.lab.plans.data import Data
from hiddenkey.lab.plans.identity import Run, options_from
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.trials import SearchTrial
from hiddenkey.lab.queue import jobs
from hiddenkey.lab.queue.jobs import Job, State
from hiddenkey.lab.queue.storage import open_storage, storage_errors
from hiddenkey.lab.run.options import TrainOptions


@dataclass(frozen=True)
class JobRow:
    """One job of the plan as it stands.

    Attributes:
        options: settings of its run, or of the search it belongs to.
        what: ``run``, ``time-matched run``, ``search`` or ``cost``.
        status: where it stands.
        seconds: estimated time, 0 if nothing is left to do.
    """

    options: TrainOptions
    what: Literal["run", "time-matched run", "search", "cost"]
    status: str
    seconds: float

    @property
    def done(self) -> bool:
        """Whether nothing is left to do, be it that it failed."""
        return self.status in ("finished", "failed")


@dataclass(frozen=True)
class Survey:
    """What is known of a plan before its runs.

    Attributes:
        rows: its jobs.
        total: how many there will be.
        prospects: what its seeds can show.
    """

    rows: list[JobRow]
    total: int
    prospects: list[Prospect]


def look_ahead(plan: Plan, outline: Jobs, data: Data) -> Survey:
    """Look where a plan stands, and measure what is left of it."""
    states, costs = look(plan, outline), Costs(plan, data)
    rows = survey(outline, states, costs)
    known = records_of(outline.jobs(states)[plan.name], states.get(plan.name, {}))
    total = max(outline.total, len(rows))
    return Survey(rows, total, prospects(plan, known, costs.of_seed, data.judged))


def look(plan: Plan, outline: Jobs) -> States:
    """Read where the studies of a plan stand, without creating any.

    A finished run whose record is in the folder counts, also where a study has forgotten it.

    Raises:
        ConfigError: if the storage cannot be reached, or holds a plan that this one contradicts.
    """
    found = _stored(plan, outline)
    archive = Archive(plan.job_store.folder)
    # with the runs of a choice the runs that it chooses for get their names
    while kept := _kept(archive, outline, found):
        for name, states in kept.items():
            found[name] = {**found.get(name, {}), **states}
    return found


def _kept(archive: Archive, outline: Jobs, found: States) -> dict[str, dict[str, State]]:
    """The runs that the studies lack and the folder has, by study."""
    kept: dict[str, dict[str, State]] = {}
    for name, listed in outline.jobs(found).items():
        for job in listed:
            state = found.get(name, {}).get(job.key, State("missing"))
            if state.status == "missing" and (trial := archive.revive(job)):
                kept.setdefault(name, {})[job.key] = State("finished", trial)
    return kept


def _stored(plan: Plan, outline: Jobs) -> dict[str, Mapping[str, State]]:
    if not plan.job_store.exists:
        return {}
    storage = open_storage(plan.job_store)
    found: dict[str, Mapping[str, State]] = {}
    with storage_errors(plan.job_store):
        there = optuna.get_all_study_names(storage)
        for name in outline.studies:
            if name not in there:
                continue
            study = optuna.load_study(study_name=name, storage=storage)
            found[name] = jobs.states(study.get_trials(deepcopy=False))
            old = terms_of(study)
            faults = differences(old, terms(plan)) if old and name == plan.name else []
            if faults and not plan.accept_changes:
                raise ConfigError(faults)
    return found


def survey(outline: Jobs, states: States, costs: Costs) -> list[JobRow]:
    """List all jobs of a plan; measure what the missing ones cost.

    Args:
        outline: its jobs.
        states: where its studies stand.
        costs: measures the runs of the plan.
    """
    rows = []
    for name, listed in outline.jobs(states).items():
        for job in listed:
            state = states.get(name, {}).get(job.key)
            rows.append(_row(job, "missing" if state is None else state.status, costs))
    rows += [_row(job, "missing", costs) for job in outline.unnamed(states)]
    return rows


def _row(job: Job, status: str, costs: Costs) -> JobRow:
    if job.kind == "run":
        return _run_row(Run.from_dict(job.payload), status, costs)
    options = options_from(job.payload["options"])
    done = status in ("finished", "failed")
    if job.kind == "search":
        seeds = len(SearchTrial.from_dict(job.payload).seeds)
        return JobRow(options, "search", status, 0.0 if done else seeds * costs.run(options))
    return JobRow(options, "cost", status, 0.0 if done else costs.probe(options))


def _run_row(run: Run, status: str, costs: Costs) -> JobRow:
    timed = run.budget == "time"
    seconds = 0.0
    if status not in ("finished", "failed"):
        # cut to the baseline's time, a run takes what the baseline takes
        options = costs.baseline(run.options) if timed else run.options
        seconds = costs.run(options)
    return JobRow(run.options, "time-matched run" if timed else "run", status, seconds)


class Costs:
    """Estimates seconds of runs: times a few steps of each task, model, rank and method once."""

    def __init__(self, plan: Plan, data: Data) -> None:
        self._data = data
        self._settings = plan.settings()
        self._baseline = plan.baseline
        self._equal_time = plan.equal_time
        self._costs: dict[tuple[object, ...], RunCost] = {}

    def run(self, options: TrainOptions) -> float:
        """Seconds of one run."""
        splits = self._data.splits(options)
        return self.cost(options).of(
            options, steps(options, len(splits.train)), len(splits.evaluation)
        )

    def of_seed(self, options: TrainOptions) -> float:
        """Seconds of what a plan runs of one configuration with one seed."""
        timed = self._equal_time and options.method != self._baseline
        return self.run(options) + (self.run(self.baseline(options)) if timed else 0.0)

    def probe(self, options: TrainOptions) -> float:
        """Seconds of comparing a method's cost with the baseline's."""
        return seconds_of_ratio(self.cost(options)) + seconds_of_ratio(
            self.cost(self.baseline(options))
        )

    def baseline(self, options: TrainOptions) -> TrainOptions:
        """The baseline's settings for the same task, model and rank."""
        return next(
            other
            for other in self._settings
            if (other.method, other.task, other.model, other.rank)
            == (self._baseline, options.task, options.model, options.rank)
        )

    def cost(self, options: TrainOptions) -> RunCost:
        """What a run costs, measured once for its group."""
        group = (options.task, options.model, options.rank, options.method)
        if group not in self._costs:
            self._costs[group] = measure(options, self._data.prepare(options))
        return self._costs[group]
