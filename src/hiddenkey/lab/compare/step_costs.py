"""Times steps of a plan's methods once its runs are done, when no worker disturbs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hiddenkey.lab.evidence.step_times import (
    Place,
    StepTimes,
    read_step_times,
    write_step_times,
)
from hiddenkey.lab.plans.data import Data
from hiddenkey.lab.plans.identity import versions
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.run.options import TrainOptions


def time_missing_steps(plan: Plan, data: Data, say: Callable[[str], None]) -> None:
    """Let each method's steps take turns with the baseline's, and store the times in the folder.

    What was timed with the same versions is kept. Where a method cannot be timed, for example since
    two models do not fit into memory, the report takes the times of the runs.

    Args:
        plan: what was compared.
        data: its examples.
        say: told in one line what could not be timed, and why.
    """
    if not plan.timed_steps:
        return
    folder = Path(plan.output)
    known = {
        each.place: each
        for each in read_step_times(folder)
        if each.baseline == plan.baseline and each.versions == versions()
    }
    settings = {_place(options): options for options in reversed(plan.settings())}
    for place, options in settings.items():
        if options.method == plan.baseline or place in known:
            continue
        baseline = settings[(*place[:3], plan.baseline)]
        try:
            known[place] = _time(options, baseline, data, plan.timed_steps)
        except (RuntimeError, ValueError, OSError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            say(f"{options.method} on {options.task}: its steps could not be timed ({reason})")
            continue
        write_step_times(folder, known.values())


def _place(options: TrainOptions) -> Place:
    return options.task, options.model, options.rank, options.method


def _time(options: TrainOptions, baseline: TrainOptions, data: Data, rounds: int) -> StepTimes:
    from hiddenkey.lab.run.step_times import times_in_turns

    ours, others = ((each, data.prepare(each)) for each in (options, baseline))
    seconds = times_in_turns(ours, others, rounds)
    own, base = zip(*seconds, strict=True)
    return StepTimes(*_place(options), baseline.method, own, base, versions())
