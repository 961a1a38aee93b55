"""From claims and a scale to jobs and their costs: choices first, then runs, then step times.

A configuration is a run for each task and seed; claims that share a configuration share its runs.
The runs of a configuration can be named when its choice is done.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from optuna.trial import FrozenTrial

from hiddenkey.framework.catalogue import methods
from hiddenkey.lab.claims.choice import choose, chosen_options, setting_of, trials
from hiddenkey.lab.claims.findings import Chosen, Setting
from hiddenkey.lab.claims.plan import BASELINE, PLAIN, Claim, Configuration, Scale
from hiddenkey.lab.compare.archive import records_of
from hiddenkey.lab.compare.outline import States, run_job
from hiddenkey.lab.compare.probe import RunCost
from hiddenkey.lab.compare.survey import Costs
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.plans.data import Data
from hiddenkey.lab.plans.identity import PATHS, Run, Stage, changed, short_hash, versions
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.queue.jobs import Job, State
from hiddenkey.lab.run.options import TrainOptions

_SECOND_PASS: Final = 1.5
"""A step with a consistency loss relative to one without (docs/BENCHMARKS.md)."""

Key = tuple[str, str]
"""Name of a task setup, and that of a configuration or a choice."""


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
        self._name, self._scale, self._data, self._local = name, scale, data, local
        self._trained, self._timed = _trained(claims), _timed(claims)
        used = chain(self._trained.items(), self._timed.items())
        needed = dict.fromkeys((task, own.chosen_as) for (task, _), own in used)
        self._decides = {key: _deciding(key, scale) for key in needed}
        choices = dict.fromkeys(chain(needed, *self._decides.values()))
        self._trials = {
            (task, name): [*map(self._here, trials(scale.choices[name], scale.tasks[task], scale))]
            for task, name in choices
        }
        self._choices = {key: self._runs(tried, "search") for key, tried in self._trials.items()}
        self._answers: dict[Key, tuple[list[FrozenTrial | None], Chosen | None]] = {}
        self._named: dict[tuple[Any, ...], list[Job]] = {}

    @property
    def studies(self) -> list[str]:
        """Names of the studies: one."""
        return [self._name]

    @property
    def total(self) -> int:
        """How many jobs there will be if none of them fails."""
        chosen = {job.key for listed in self._choices.values() for job in listed}
        compared = len(self._trained) * len(self._scale.seeds)
        return len(chosen) + compared + len(self._timed) * self._scale.repeats

    def jobs(self, look: States) -> dict[str, list[Job]]:
        """Return the jobs that can be named by now, in the order to do them.

        Args:
            look: what is known of the study.
        """
        states = look.get(self._name, {})
        chosen = self.chosen(states)
        by_seed = zip(*self._run_jobs(chosen).values(), strict=True)  # all of a seed, then the next
        listed = chain(*self._choices.values(), *by_seed, *self._timing_jobs(chosen).values())
        return {self._name: list({job.key: job for job in listed}.values())}

    def unnamed(self, look: States) -> list[Job]:
        """Return the runs whose choice is still open, with the first setting that it tries."""
        chosen = self.chosen(look.get(self._name, {}))
        return [
            run_job(Run(options, self._data.fingerprint(options)))
            for (task, _), found in self._trained.items()
            if (task, found.chosen_as) not in chosen
            for options in self._by_seed(self._guessed(task, found))
        ]

    def blocked(self, look: States) -> list[str]:
        """Say which configurations cannot be run, because no run of their choice succeeded."""
        states = look.get(self._name, {})
        return [
            f"{choice} on {task}: no run of its choice succeeded"
            for task, choice in self._decides
            if self._ended((task, choice), states) and self._answer((task, choice), states) is None
        ]

    def chosen(self, states: Mapping[str, State]) -> dict[Key, Chosen]:
        """Return what has been chosen, by task setup and choice."""
        answers = {key: self._answer(key, states) for key in self._decides}
        return {key: answer for key, answer in answers.items() if answer is not None}

    def settings(self) -> list[TrainOptions]:
        """One run of every distinct setting, to check before anything is written."""
        held = [options for tried in self._trials.values() for options in tried]
        guessed = [self._guessed(task, found) for (task, _), found in self._trained.items()]
        return held + [self._by_seed(options)[0] for options in guessed]

    def records(self, states: Mapping[str, State]) -> Iterator[tuple[Key | None, Record]]:
        """Yield the finished runs that were compared, with their place, and those that chose."""
        places: list[tuple[Key | None, list[Job]]] = [*self._run_jobs(self.chosen(states)).items()]
        places += [(None, listed) for listed in self._choices.values()]
        for place, listed in places:
            yield from ((place, each) for each in records_of(listed, states) if each.result)

    def step_times(self, states: Mapping[str, State]) -> dict[Key, dict[int, float]]:
        """Return the measured times of a step relative to the baseline's, by number of repeat."""
        return {
            key: {
                repeat: float(state.trial.user_attrs["ratio"])
                for repeat, job in enumerate(listed)
                if (state := states.get(job.key)) and state.status == "finished" and state.trial
            }
            for key, listed in self._timing_jobs(self.chosen(states)).items()
        }

    def _answer(self, key: Key, states: Mapping[str, State]) -> Chosen | None:
        """Choose for a task once all runs of the choice have ended.

        The answer is remembered with their trials: an ended trial never changes, and a run that is
        asked for again gets another one.
        """
        if not self._ended(key, states):
            return None
        places = self._decides[key]
        ended = [states[job.key].trial for place in places for job in self._choices[place]]
        before, answer = self._answers.get(key, (None, None))
        if before != ended:
            task, name = key
            choice = self._scale.choices[name]
            results = {
                place[0]: [
                    (setting_of(choice, record.options), record.result)
                    for record in records_of(self._choices[place], states)
                    if record.result is not None or record.counts_as_worst
                ]
                for place in places
            }
            answer = choose(task, choice, results)
            self._answers[key] = ended, answer
        return answer

    def _ended(self, key: Key, states: Mapping[str, State]) -> bool:
        """Whether all runs that decide a choice have ended."""
        listed = chain(*(self._choices[place] for place in self._decides[key]))
        return all(job.key in states and states[job.key].done for job in listed)

    def _run_jobs(self, chosen: Mapping[Key, Chosen]) -> dict[Key, list[Job]]:
        """The runs of each configuration on each task whose choice is done, by seed."""
        return self._jobs_of(self._trained, chosen, lambda own: self._runs(self._by_seed(own)))

    def _timing_jobs(self, chosen: Mapping[Key, Chosen]) -> dict[Key, list[Job]]:
        """The measurements of a step's time of each configuration on each task, by repeat."""
        return self._jobs_of(self._timed, chosen, self._timings, PLAIN)

    def _jobs_of(
        self,
        configurations: Mapping[Key, Configuration],
        chosen: Mapping[Key, Chosen],
        named: Callable[..., list[Job]],
        *beside: Configuration,
    ) -> dict[Key, list[Job]]:
        """Name the jobs of configurations whose choices are done; it takes its time, so but once.

        Args:
            configurations: by task setup and name.
            chosen: what has been chosen.
            named: names the jobs of a configuration from its options and those of ``beside``.
            beside: what each is set beside.
        """
        found = {}
        for (task, name), configuration in configurations.items():
            needed = (configuration, *beside)
            answers = [chosen[key] for each in needed if (key := (task, each.chosen_as)) in chosen]
            if len(answers) == len(needed):
                settings = tuple(answer.setting for answer in answers)
                if (task, name, settings) not in self._named:
                    pairs = zip(needed, settings, strict=True)
                    options = [self._options(task, each, setting) for each, setting in pairs]
                    self._named[task, name, settings] = named(*options)
                found[task, name] = self._named[task, name, settings]
        return found

    def _runs(self, listed: Sequence[TrainOptions], stage: Stage = "compare") -> list[Job]:
        return [run_job(Run(own, self._data.fingerprint(own), stage)) for own in listed]

    def _timings(self, *options: TrainOptions) -> list[Job]:
        ours, baseline = (changed(self._by_seed(each)[0]) for each in options)
        same = [{k: v for k, v in run.items() if k not in PATHS} for run in (ours, baseline)]
        key, payload = short_hash([same, versions()]), {"options": ours, "baseline": baseline}
        repeats = range(self._scale.repeats)
        return [Job(f"cost-{key}-{repeat}", "probe", payload, {}) for repeat in repeats]

    def _options(self, task: str, configuration: Configuration, setting: Setting) -> TrainOptions:
        setup = self._scale.tasks[task]
        return self._here(chosen_options(configuration, setup, self._scale, setting))

    def _guessed(self, task: str, configuration: Configuration) -> TrainOptions:
        """A configuration with the first setting that its choice tries."""
        first = self._trials[task, configuration.chosen_as][0]
        choice = self._scale.choices[configuration.chosen_as]
        return self._options(task, configuration, setting_of(choice, vars(first)))

    def _by_seed(self, options: TrainOptions) -> list[TrainOptions]:
        return [dataclasses.replace(options, seed=seed) for seed in self._scale.seeds]

    def _here(self, options: TrainOptions) -> TrainOptions:
        return dataclasses.replace(options, **self._local.get(options.task, {}))


def _trained(claims: Sequence[Claim]) -> dict[Key, Configuration]:
    """Every configuration on every task, once; plain LoRA on all, since it says what counts."""
    found: dict[Key, Configuration] = {}
    for claim in claims:
        known = {BASELINE: PLAIN, **claim.configurations}
        for task in claim.tasks:
            for name in dict.fromkeys((BASELINE, *claim.trained)):
                found.setdefault((task, name), known[name])
    return found


def _deciding(key: Key, scale: Scale) -> tuple[Key, ...]:
    """Tasks, with the choice, whose runs decide it.

    All tasks of the scale that make it, and not only those of the claims that are asked for: a
    claim has the same answer alone and among others.
    """
    _, name = key
    if scale.choices[name].scope == "each task":
        return (key,)
    return tuple((task, name) for task, setup in scale.tasks.items() if name in setup.choices)


def _timed(claims: Sequence[Claim]) -> dict[Key, Configuration]:
    return {
        (task, name): claim.configurations[name]
        for claim in claims
        for task in claim.tasks
        for name in claim.timed
    }


class PlainCosts(Costs):
    """Estimates seconds of runs from plain LoRA's steps, since claims have too many methods.

    Args:
        data: the examples of the runs.
    """

    def __init__(self, data: Data) -> None:
        super().__init__(Plan(tasks=()), data)
        self._plain: dict[tuple[str, str], RunCost] = {}

    def baseline(self, options: TrainOptions) -> TrainOptions:
        """Plain LoRA with the same settings."""
        return dataclasses.replace(
            options, method=BASELINE, also=(), rate=None, rates={}, consistency_weight=None
        )

    def cost(self, options: TrainOptions) -> RunCost:
        """What a run costs; each task and model is measured once."""
        place = options.task, options.model
        if place not in self._plain:
            self._plain[place] = super().cost(self.baseline(options))
        plain = self._plain[place]
        loss = methods()[options.method].config.consistency
        runs_twice = loss is not None and loss.runs_twice
        return dataclasses.replace(plain, step=plain.step * (_SECOND_PASS if runs_twice else 1))
