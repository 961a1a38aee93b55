"""The jobs of a plan that runs a command of somebody else's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from hiddenkey.lab.compare.outline import States
from hiddenkey.lab.compare.searches import SearchOutline
from hiddenkey.lab.plans import command as commands
from hiddenkey.lab.plans.command import CommandOptions, CommandRun
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.trials import with_chosen
from hiddenkey.lab.queue.jobs import Job


class CommandOutline:
    """The runs of a command; see :class:`hiddenkey.lab.compare.outline.Jobs`.

    Args:
        plan: a plan with a command, whose faults have been looked for.
    """

    def __init__(self, plan: Plan) -> None:
        assert plan.command is not None
        self._plan = plan
        self._print = commands.fingerprint(plan.command)
        self._contenders = plan.contenders()
        self._searches = [
            SearchOutline(plan, group, self._print) if plan.searched else None
            for group in self._contenders
        ]
        self._named: dict[tuple[int, int, str], Job] = {}

    @property
    def studies(self) -> list[str]:
        """Those of the searches, and last that of the runs that are compared."""
        return [*(search.name for search in self._searches if search), self._plan.name]

    @property
    def total(self) -> int:
        """How many jobs there are."""
        runs = len(self._contenders) * len(self._plan.seeds)
        return runs + sum(search.total for search in self._searches if search)

    def jobs(self, look: States) -> dict[str, list[Job]]:
        """The jobs that can be named, one seed after the other: pairs are complete early."""
        seen = [(each, look.get(each.name, {}) if each else {}) for each in self._searches]
        answers = [search.chosen(states) if search else {} for search, states in seen]
        runs = [
            self._job(index, seed, chosen)
            for seed in self._plan.seeds
            for index, chosen in enumerate(answers)
            if chosen is not None
        ]
        tried = {search.name: search.jobs(states) for search, states in seen if search}
        return {**tried, self._plan.name: runs}

    def unnamed(self, look: States) -> list[Job]:
        """Nothing: a command's time cannot be measured in a few steps."""
        return []

    def blocked(self, look: States) -> list[str]:
        """Which runs cannot be, because no trial of their search succeeded."""
        return [
            f"{group[0].method} on {group[0].task}: {why}"
            for group, search in zip(self._contenders, self._searches, strict=True)
            if search and (why := search.why_nothing(look.get(search.name, {})))
        ]

    def _job(self, index: int, seed: int, chosen: Mapping[str, Any]) -> Job:
        place = (index, seed, repr(chosen))
        if place not in self._named:
            options = with_chosen(self._contenders[index], chosen)
            assert isinstance(options, CommandOptions)
            run = CommandRun(dataclasses.replace(options, seed=seed), self._print)
            self._named[place] = _job(run)
        return self._named[place]


def _job(run: CommandRun) -> Job:
    name = commands.command_label(run.options.recorded())
    params: dict[str, float | str] = {"method": run.options.method, **_params(run.options)}
    return Job(run.id, "run", run.to_dict(), params, name)


def _params(options: CommandOptions) -> Mapping[str, float]:
    """The numbers of a run that Optuna's dashboard shows."""
    given = {
        "seed": options.seed,
        "rate": options.rate,
        "consistency_weight": options.consistency_weight,
        **options.arguments,
    }
    return {
        name: value
        for name, value in given.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    }
