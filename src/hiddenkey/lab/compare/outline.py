"""From a plan to jobs: pure functions of the plan, its data and what is known so far.

A grid's runs are known from the start. With a search, the runs of a method follow when its search
is done; time-matched, the shortened runs follow when the cost of the method is measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hiddenkey.lab.compare.searches import SearchOutline
from hiddenkey.lab.plans.data import Data
from hiddenkey.lab.plans.identity import PATHS, Budget, Run, changed, short_hash, versions
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.search import AnyOptions, held_out
from hiddenkey.lab.plans.trials import with_chosen
from hiddenkey.lab.queue.jobs import Job, State
from hiddenkey.lab.run.choice import choice_size
from hiddenkey.lab.run.options import TrainOptions

States = Mapping[str, Mapping[str, State]]
"""State of each job, by study."""

_NO_COST: Final = ("rate", "rates", "consistency_weight", "learning_rate")
"""Settings that do not change how long a step takes."""


@dataclass(frozen=True)
class SettingAnswer:
    """What a setting's runs wait for.

    Attributes:
        chosen: what its search chose, empty without a search; ``None`` while it is open.
        ratio: its cost relative to the baseline's, if it was measured.
    """

    chosen: Mapping[str, Any] | None
    ratio: float | None


class Outline:
    """The jobs of a plan whose data can be read."""

    def __init__(self, plan: Plan, data: Data) -> None:
        self._plan = plan
        self._contenders = [tuple(map(_ours, group)) for group in plan.contenders()]
        self._settings = [group[0] for group in self._contenders]
        self._prints = [data.fingerprint(options) for options in self._settings]
        self._examples = [len(data.splits(options).train) for options in self._settings]
        self._searches = [self._search(group, data) for group in self._contenders]
        self._probes = [self._probe(index) for index in range(len(self._settings))]
        self._named: dict[tuple[int, int], tuple[SettingAnswer, list[Job]]] = {}

    @property
    def studies(self) -> list[str]:
        """Names of the studies; the last one holds the runs that are compared."""
        return [*(search.name for search in self._searches if search), self._plan.name]

    @property
    def total(self) -> int:
        """How many jobs there will be if none of them fails."""
        runs = len(self._settings) * len(self._plan.seeds)
        searches = sum(search.total for search in self._searches if search)
        timed = [probe for probe in self._probes if probe is not None]
        return (
            runs
            + searches
            + len({probe.key for probe in timed})
            + len(timed) * len(self._plan.seeds)
        )

    def jobs(self, look: States) -> dict[str, list[Job]]:
        """Return the jobs that can be named by now, by study, in the order to do them.

        Args:
            look: what is known of the studies.
        """
        found = {
            search.name: search.jobs(look.get(search.name, {}))
            for search in self._searches
            if search
        }
        probes = {probe.key: probe for probe in self._probes if probe is not None}
        answers = [self._answer(index, look) for index in range(len(self._settings))]
        found[self._plan.name] = [
            *probes.values(),
            *(
                job
                for seed in self._plan.seeds
                for index, answer in enumerate(answers)
                for job in self._run_jobs(index, seed, answer)
            ),
        ]
        return found

    def unnamed(self, look: States) -> list[Job]:
        """Return the jobs that cannot be named yet, with what is still open at its default."""
        found = [
            job
            for search in self._searches
            if search
            for job in search.unnamed(look.get(search.name, {}))
        ]
        for index, options in enumerate(self._settings):
            probe = self._probes[index]
            named = {run.budget for run in self._runs(index, 0, self._answer(index, look))}
            budgets: list[Budget] = ["steps"] if probe is None else ["steps", "time"]
            found += [
                run_job(
                    Run(dataclasses.replace(options, seed=seed), self._prints[index], budget=budget)
                )
                for budget in budgets
                if budget not in named
                for seed in self._plan.seeds
            ]
        return found

    def blocked(self, look: States) -> list[str]:
        """Say which runs cannot be, because what they wait for failed."""
        said = []
        for options, search, probe in zip(
            self._settings, self._searches, self._probes, strict=True
        ):
            if search and (why := search.why_nothing(look.get(search.name, {}))):
                said.append(f"{options.method} on {options.task}: {why}")
            state = look.get(self._plan.name, {}).get(probe.key) if probe else None
            if state is not None and state.status == "failed":
                said.append(f"{options.method} on {options.task}: its cost could not be measured")
        return list(dict.fromkeys(said))

    def _answer(self, index: int, look: States) -> SettingAnswer:
        """What search and measurement have found for a setting."""
        search = self._searches[index]
        chosen = search.chosen(look.get(search.name, {})) if search else {}
        probe = self._probes[index]
        cost = look.get(self._plan.name, {}).get(probe.key) if probe else None
        if cost is None or cost.status != "finished" or cost.trial is None:
            return SettingAnswer(chosen, None)
        return SettingAnswer(chosen, float(cost.trial.user_attrs["ratio"]))

    def _run_jobs(self, index: int, seed: int, answer: SettingAnswer) -> list[Job]:
        # Naming thousands of runs takes seconds, and is asked for with every look at the studies.
        answered, jobs = self._named.get((index, seed), (None, []))
        if answered != answer:
            jobs = [run_job(run) for run in self._runs(index, seed, answer)]
            self._named[index, seed] = answer, jobs
        return jobs

    def _runs(self, index: int, seed: int, answer: SettingAnswer) -> list[Run]:
        if answer.chosen is None:
            return []
        options = _ours(with_chosen(self._contenders[index], answer.chosen))
        options = dataclasses.replace(options, seed=seed)
        runs = [Run(options, self._prints[index])]
        if answer.ratio is not None:
            cut = round(steps(options, self._examples[index]) / max(1.0, answer.ratio))
            timed = dataclasses.replace(options, max_steps=max(1, cut))
            runs.append(Run(timed, self._prints[index], budget="time"))
        return runs

    def _search(self, contenders: Sequence[TrainOptions], data: Data) -> SearchOutline | None:
        search = self._plan.searched
        if search is None:
            return None
        held = [held_out(options, search) for options in contenders]
        return SearchOutline(self._plan, held, data.fingerprint(held[0]))

    def _probe(self, index: int) -> Job | None:
        """The measurement of a method's cost; rates do not change it and share one."""
        options = self._settings[index]
        if not self._plan.equal_time or options.method == self._plan.baseline:
            return None
        same = ("task", "model", "rank")
        mine, baseline = (
            next(
                setting
                for setting in self._settings
                if setting.method == method
                and all(getattr(setting, name) == getattr(options, name) for name in same)
            )
            for method in (options.method, self._plan.baseline)
        )
        payload = {"options": changed(mine), "baseline": changed(baseline)}
        same_cost = [_without(options, (*PATHS, *_NO_COST)) for options in payload.values()]
        key = short_hash([same_cost, versions(), self._prints[index]])
        return Job(f"cost-{key}", "probe", payload, {})


def _ours(options: AnyOptions) -> TrainOptions:
    """The settings of a plan without a command."""
    assert isinstance(options, TrainOptions)
    return options


def run_job(run: Run) -> Job:
    """The job that trains one run."""
    options = run.options
    shown = {"seed": options.seed, "rank": options.rank, "learning_rate": options.learning_rate}
    optional = {"rate": options.rate, "consistency_weight": options.consistency_weight}
    given = {name: value for name, value in optional.items() if value is not None}
    params: dict[str, float | str] = {"method": options.method, **shown, **given}
    return Job(run.id, "run", run.to_dict(), params, run.name)


def steps(options: TrainOptions, examples: int) -> int:
    """Optimiser steps of a run, as Trainer counts them."""
    if options.max_steps is not None:
        return options.max_steps
    batches = math.ceil((examples - choice_size(options, examples)) / options.batch_size)
    per_epoch = max(1, math.ceil(batches / options.gradient_accumulation))
    return math.ceil(options.epochs * per_epoch)


def _without(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
