"""Everything about a plan that can be refused before a model is loaded or anything is written."""

from __future__ import annotations

import dataclasses

from hiddenkey.errors import ConfigError
from hiddenkey.lab.plans import plan as plans
from hiddenkey.lab.plans.data import Data
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.search import Search, searched_options
from hiddenkey.lab.run.options import TrainOptions


def check(plan: Plan) -> Data:
    """Check the plan, the settings of all its runs and their data; return the data.

    Raises:
        ConfigError: with every fault.
    """
    faults = plans.validate(plan)
    data = Data()
    faults += data.faults(_runs_to_check(plan))
    if faults:
        raise ConfigError(faults)
    return data


def _runs_to_check(plan: Plan) -> list[TrainOptions]:
    """Every distinct setting with one seed, and one setting with every seed."""
    settings = plan.settings()
    runs = [dataclasses.replace(options, seed=plan.seeds[0]) for options in settings if plan.seeds]
    runs += [dataclasses.replace(options, seed=s) for options in settings[:1] for s in plan.seeds]
    search = plan.searched
    if search is not None:
        runs += [run for options in settings for run in _ends(options, search)]
    return runs


def _ends(options: TrainOptions, search: Search) -> list[TrainOptions]:
    """The runs at both ends of a search's space, on its validation part."""
    held = dataclasses.replace(options, holdout=search.validation)
    space = search.space_of(options.method)
    return [
        searched_options(held, {name: bounds[end] for name, bounds in space.items()})
        for end in (0, 1)
    ]
