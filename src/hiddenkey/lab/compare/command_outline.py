"""The jobs of a plan that runs a command of somebody else's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from hiddenkey.lab.compare.outline import States
from hiddenkey.lab.plans import command as commands
from hiddenkey.lab.plans.command import CommandOptions, CommandRun
from hiddenkey.lab.plans.identity import Run
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.queue.jobs import Job


class CommandOutline:
    """A grid: every job is known from the start. See :class:`hiddenkey.lab.compare.outline.Jobs`.

    Args:
        plan: a plan with a command, whose faults have been looked for.
    """

    def __init__(self, plan: Plan) -> None:
        assert plan.command is not None
        self._name = plan.name
        self.settings = plan.command_settings()
        print_of = commands.fingerprint(plan.command)
        self._jobs = [
            _job(CommandRun(dataclasses.replace(options, seed=seed), print_of))
            for seed in plan.seeds
            for options in self.settings
        ]

    @property
    def studies(self) -> list[str]:
        """The one study."""
        return [self._name]

    @property
    def total(self) -> int:
        """How many jobs there are."""
        return len(self._jobs)

    def jobs(self, look: States) -> dict[str, list[Job]]:
        """All jobs, one seed after the other: pairs are complete early."""
        return {self._name: self._jobs}

    def unnamed(self, look: States) -> list[Run]:
        """Nothing: all runs are known."""
        return []

    def blocked(self, look: States) -> list[str]:
        """Nothing: no run waits for another."""
        return []


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
