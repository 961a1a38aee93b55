"""From claims and a scale to jobs: what is chosen first, what is compared then, what is timed.

An arm is a run for each task and seed; claims that share an arm share its runs. The runs of an arm
can be named when its choice is done.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from hiddenkey.framework.catalogue import methods
from hiddenkey.lab.claims.choice import Setting, Trial, choose, rate_setting, task_options, trials
from hiddenkey.lab.claims.findings import Chosen
from hiddenkey.lab.claims.plan import BASELINE, COST, Arm, Choice, Claim, Scale, TaskSetup
from hiddenkey.lab.compare.outline import States, run_job
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.plans.data import Data
from hiddenkey.lab.plans.identity import PATHS, Run, changed, short_hash, versions
from hiddenkey.lab.queue import jobs
from hiddenkey.lab.queue.jobs import Job, State
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.result import Result


@dataclass(frozen=True)
class Place:
    """An arm on a task."""

    setup: TaskSetup
    arm: Arm


class EvidenceOutline:
    """The jobs of some claims at a scale.

    Args:
        name: of the study.
        claims: the claims.
        scale: the scale, which fits them.
        data: reads and remembers examples.
        local: where this machine has its data, by task, as settings.
    """

    def __init__(
        self,
        name: str,
        claims: Sequence[Claim],
        scale: Scale,
        data: Data,
        local: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._name = name
        self._scale = scale
        self._data = data
        self._local = local
        self.places = _places(claims, scale)
        self._timed = _timed(claims, scale)
        self._choices = {
            (place.setup.name, place.arm.chosen_as): [
                (trial, self._held_out_job(trial)) for trial in self._trials(place)
            ]
            for place in self.places
        }
        self._chosen: dict[tuple[str, str], tuple[list[FrozenTrial | None], Chosen | None]] = {}
        self._named: dict[tuple[str, str, Setting], list[Job]] = {}
        self._clocked: dict[tuple[str, str, Setting, Setting], list[Job]] = {}

    @property
    def studies(self) -> list[str]:
        """Names of the studies: one."""
        return [self._name]

    @property
    def total(self) -> int:
        """How many jobs there will be if none of them fails."""
        chosen = {job.key for found in self._choices.values() for _, job in found}
        compared = len(self.places) * len(self._scale.seeds)
        return len(chosen) + compared + len(self._timed) * self._scale.repeats

    def jobs(self, look: States) -> dict[str, list[Job]]:
        """Return the jobs that can be named by now, in the order to do them.

        Args:
            look: what is known of the study.
        """
        states = look.get(self._name, {})
        found = {job.key: job for listed in self._choices.values() for _, job in listed}
        chosen = self.chosen(states)
        named = [
            self._arm_jobs(place, answer)
            for place in self.places
            if (answer := chosen.get((place.setup.name, place.arm.chosen_as))) is not None
        ]
        for index in range(len(self._scale.seeds)):  # all arms of a seed, then the next seed
            found |= {listed[index].key: listed[index] for listed in named}
        found |= {job.key: job for job in self._timing_jobs(chosen)}
        return {self._name: list(found.values())}

    def unnamed(self, look: States) -> list[Run]:
        """Return the runs whose choice is still open, with the first setting that it tries."""
        chosen = self.chosen(look.get(self._name, {}))
        return [
            Run(options, self._data.fingerprint(options))
            for place in self.places
            if (place.setup.name, place.arm.chosen_as) not in chosen
            for options in self._arm_options(place, self._guess(place))
        ]

    def blocked(self, look: States) -> list[str]:
        """Say which arms cannot be run, because no run of their choice succeeded."""
        states = look.get(self._name, {})
        return [
            f"{choice} on {task}: no run of its choice succeeded"
            for (task, choice), listed in self._choices.items()
            if all(_status(states, job) == "failed" for _, job in listed)
        ]

    def chosen(self, states: Mapping[str, State]) -> dict[tuple[str, str], Chosen]:
        """Return what has been chosen, by task setup and choice."""
        answers = {key: self._answer(key, states) for key in self._choices}
        return {key: answer for key, answer in answers.items() if answer is not None}

    def _answer(self, key: tuple[str, str], states: Mapping[str, State]) -> Chosen | None:
        """Choose for a task once all runs of the choice have ended.

        The answer is remembered with their trials: an ended trial never changes, and a run that is
        asked for again gets another one.
        """
        listed = self._choices[key]
        if not all(_status(states, job) in ("finished", "failed") for _, job in listed):
            return None
        ended = [states[job.key].trial for _, job in listed]
        before, answer = self._chosen.get(key, (None, None))
        if before != ended:
            results: list[tuple[Setting, Result]] = [
                (trial.setting, record.result)
                for trial, job in listed
                if (record := record_of(states, job)) is not None and record.result is not None
            ]
            task, name = key
            answer = choose(self._scale.tasks[task], self._scale.choices[name], results)
            self._chosen[key] = ended, answer
        return answer

    def arm_jobs(self, states: Mapping[str, State]) -> Iterator[tuple[Place, int, Job]]:
        """Yield the run of each place and seed whose choice is done."""
        chosen = self.chosen(states)
        for place in self.places:
            answer = chosen.get((place.setup.name, place.arm.chosen_as))
            if answer is not None:
                yield from (
                    (place, seed, job)
                    for seed, job in zip(
                        self._scale.seeds, self._arm_jobs(place, answer), strict=True
                    )
                )

    def timing_jobs(self, states: Mapping[str, State]) -> Iterator[tuple[Place, int, Job]]:
        """Yield each measurement of a step's time, with its number."""
        chosen = self.chosen(states)
        for place in self._timed:
            for repeat, job in enumerate(self._timing_of(place, chosen)):
                yield place, repeat, job

    def choice_records(self, states: Mapping[str, State]) -> Iterator[Record]:
        """Yield the records of the runs that chose settings."""
        for listed in self._choices.values():
            for _, job in listed:
                record = record_of(states, job)
                if record is not None and record.result is not None:
                    yield record

    def settings(self) -> list[TrainOptions]:
        """One run of every distinct setting, to check before anything is written."""
        held = [trial.options for listed in self._choices.values() for trial, _ in listed]
        return held + [self._arm_options(place, self._guess(place))[0] for place in self.places]

    def _trials(self, place: Place) -> list[Trial]:
        choice = self._scale.choices[place.arm.chosen_as]
        return [
            dataclasses.replace(trial, options=self._here(trial.options))
            for trial in trials(choice, place.setup, self._scale)
        ]

    def _held_out_job(self, trial: Trial) -> Job:
        fingerprint = self._data.fingerprint(trial.options)
        return run_job(Run(trial.options, fingerprint, stage="search"))

    def _arm_jobs(self, place: Place, chosen: Chosen) -> list[Job]:
        key = (place.setup.name, place.arm.name, chosen.setting)
        if key not in self._named:
            self._named[key] = [
                run_job(Run(options, self._data.fingerprint(options)))
                for options in self._arm_options(place, chosen)
            ]
        return self._named[key]

    def _arm_options(self, place: Place, chosen: Chosen) -> list[TrainOptions]:
        choice = self._scale.choices[place.arm.chosen_as]
        drops = bool(methods()[place.arm.method].config.drops)
        rate = rate_setting(choice, chosen.rate) if drops else {}
        given = {**choice.settings, **rate, "learning_rate": chosen.learning_rate}
        options = task_options(
            place.setup, self._scale, place.arm.method, {**given, **place.arm.settings}
        )
        return [self._here(dataclasses.replace(options, seed=seed)) for seed in self._scale.seeds]

    def _guess(self, place: Place) -> Chosen:
        choice: Choice = self._scale.choices[place.arm.chosen_as]
        rates = place.setup.learning_rates.get(choice.name, choice.learning_rates)
        drops = bool(methods()[choice.method].config.drops)
        rate = choice.rates[0] if drops else None
        return Chosen(place.setup.name, choice.name, rates[0], rate, 0, {})

    def _timing_jobs(self, chosen: Mapping[tuple[str, str], Chosen]) -> list[Job]:
        return [job for place in self._timed for job in self._timing_of(place, chosen)]

    def _timing_of(self, place: Place, chosen: Mapping[tuple[str, str], Chosen]) -> list[Job]:
        mine = chosen.get((place.setup.name, place.arm.chosen_as))
        plain = chosen.get((place.setup.name, BASELINE))
        if mine is None or plain is None:
            return []
        key = (place.setup.name, place.arm.name, mine.setting, plain.setting)
        if key not in self._clocked:
            self._clocked[key] = self._name_timings(place, mine, plain)
        return self._clocked[key]

    def _name_timings(self, place: Place, mine: Chosen, plain: Chosen) -> list[Job]:
        baseline = Place(place.setup, Arm(BASELINE, BASELINE, {}, BASELINE))
        payload = {
            "options": changed(self._arm_options(place, mine)[0]),
            "baseline": changed(self._arm_options(baseline, plain)[0]),
        }
        same = [{k: v for k, v in run.items() if k not in PATHS} for run in payload.values()]
        key = short_hash([same, versions()])
        return [
            Job(f"cost-{key}-{repeat}", "probe", payload, {})
            for repeat in range(self._scale.repeats)
        ]

    def _here(self, options: TrainOptions) -> TrainOptions:
        return dataclasses.replace(options, **self._local.get(options.task, {}))


def record_of(states: Mapping[str, State], job: Job) -> Record | None:
    """The record of a run's job, if it has ended."""
    state = states.get(job.key)
    if state is None or not state.done or state.trial is None:
        return None
    found = jobs.records(state.trial).get(job.key)
    return None if found is None else Record.from_dict(found)


def ratio_of(states: Mapping[str, State], job: Job) -> float | None:
    """The measured step time of a timing job, relative to the baseline's."""
    state = states.get(job.key)
    if state is None or state.status != "finished" or state.trial is None:
        return None
    return float(state.trial.user_attrs["ratio"])


def _status(states: Mapping[str, State], job: Job) -> str:
    state = states.get(job.key)
    return "missing" if state is None else state.status


def _places(claims: Sequence[Claim], scale: Scale) -> list[Place]:
    """Every arm on every task, once; plain LoRA on all of them, since it tells what counts."""
    found: dict[tuple[str, str], Place] = {}
    for claim in claims:
        for task in claim.tasks.get(scale.name, ()):
            arms = {BASELINE: Arm(BASELINE, BASELINE, {}, BASELINE), **claim.arms}
            for name in (name for name in arms if name in trained(claim) | {BASELINE}):
                found.setdefault((task, name), Place(scale.tasks[task], arms[name]))
    return list(found.values())


def trained(claim: Claim) -> set[str]:
    """Names of the arms that are trained to the end: all but those that are only timed."""
    weighed = {
        arm for contrast in claim.contrasts if contrast.measure != COST for arm in contrast.weights
    }
    drawn = {arm for p in claim.pictures for points in p.series.values() for arm in points.values()}
    return weighed | drawn | {arm for p in claim.pictures for arm in p.cells.values()}


def _timed(claims: Sequence[Claim], scale: Scale) -> list[Place]:
    found: dict[tuple[str, str], Place] = {}
    for claim in claims:
        for contrast in claim.contrasts:
            if contrast.measure == COST:
                for task in claim.tasks.get(scale.name, ()):
                    for name in contrast.weights:
                        found[task, name] = Place(scale.tasks[task], claim.arms[name])
    return list(found.values())
