"""What a run costs, from a few timed steps, and what a method's steps cost beside the baseline's.

A run's steps are those of :func:`hiddenkey.lab.run.training.train` itself, in a folder that is
thrown away: the first half warms up, the second half counts.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from hiddenkey import log
from hiddenkey.lab.evidence.costs import StepTimes, TimedPlace, read_step_times, write_step_times
from hiddenkey.lab.plans.data import Data
from hiddenkey.lab.plans.identity import versions
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import Prepared
from hiddenkey.lab.run.recorder import Observer
from hiddenkey.lab.run.result import evaluation_steps
from hiddenkey.lab.tasks import Splits

_STEPS: Final = 8
_EXAMPLES: Final = 64
_TEXTS: Final = 8


@dataclass(frozen=True)
class RunCost:
    """What one run costs on this machine, in seconds.

    Attributes:
        step: one optimiser step.
        example: one example of an evaluation; each evaluation also reads as many training examples.
        start: loading the model, and all else that is done once.
        text: generating and scoring one text, for tasks that generate.
    """

    step: float
    example: float
    start: float
    text: float

    def of(self, options: TrainOptions, steps: int, examples: int) -> float:
        """Return the seconds of a run.

        Args:
            options: its settings.
            steps: optimiser steps.
            examples: evaluation examples.
        """
        evaluations = len(evaluation_steps(steps, options.evaluations))
        return (
            self.start
            + steps * self.step
            + evaluations * examples * self.example
            + examples * self.text
        )


def measure(options: TrainOptions, prepared: Prepared, steps: int = _STEPS) -> RunCost:
    """Time a few steps and two small evaluations of a run.

    Args:
        options: its settings.
        prepared: its task, examples and configuration.
        steps: optimiser steps to take; half of them are timed.
    """
    from hiddenkey.lab.run.training import train

    splits = prepared.splits
    count = _TEXTS if prepared.task.kind == "generation" else _EXAMPLES
    few = Splits(splits.train, splits.evaluation[:count], splits.label_names)
    with tempfile.TemporaryDirectory(prefix="hiddenkey-probe-") as folder:
        short = dataclasses.replace(
            options,
            max_steps=steps,
            evaluations=2,
            log_every=None,
            report_to=(),
            output=str(Path(folder) / "run"),
            resume=False,
            overwrite=False,
        )
        seen = _Lines()
        started = time.perf_counter()
        with log.muted():
            train(short, prepared=dataclasses.replace(prepared, splits=few), observer=seen)
        whole = time.perf_counter() - started
    last = seen.lines[-1]
    evaluations = [line["evaluation_seconds"] for line in seen.lines]
    return RunCost(
        step=last["seconds_per_step"],
        example=evaluations[-1] / len(few.evaluation),
        start=max(0.0, whole - last["seconds"] - sum(evaluations) - seen.generation_seconds),
        text=seen.generation_seconds / len(few.evaluation),
    )


def ratio(ours: tuple[TrainOptions, Prepared], baseline: tuple[TrainOptions, Prepared]) -> float:
    """How much longer a step of ours takes than one of the baseline, measured in turns."""
    from hiddenkey.lab.run.step_times import times_in_turns

    return median(mine / other for mine, other in times_in_turns(ours, baseline))


def seconds_of_ratio(cost: RunCost) -> float:
    """Seconds that :func:`ratio` spends on one of its two configurations."""
    from hiddenkey.lab.run.step_times import ROUNDS, WARM_UP

    return cost.start + (WARM_UP + ROUNDS) * cost.step


class _Lines(Observer):
    """Keeps the lines of a run's evaluations, and times the generation of texts."""

    def __init__(self) -> None:
        self.lines: list[Mapping[str, Any]] = []
        self.generation_seconds = 0.0

    def evaluated(self, line: Mapping[str, Any]) -> None:
        """Keep the line."""
        self.lines.append(line)

    def generating(self, count: int) -> None:
        """Start the clock of the generation."""
        self.generation_seconds = -time.perf_counter()

    def scored(self, texts: Sequence[Mapping[str, Any]], scores: Mapping[str, Any]) -> None:
        """Stop the clock."""
        self.generation_seconds += time.perf_counter()


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


def _place(options: TrainOptions) -> TimedPlace:
    return options.task, options.model, options.rank, options.method


def _time(options: TrainOptions, baseline: TrainOptions, data: Data, rounds: int) -> StepTimes:
    from hiddenkey.lab.run.step_times import times_in_turns
    from hiddenkey.quiet import quiet

    quiet()
    ours, others = ((each, data.prepare(each)) for each in (options, baseline))
    seconds = times_in_turns(ours, others, rounds)
    own, base = zip(*seconds, strict=True)
    return StepTimes(*_place(options), baseline.method, own, base, versions())
