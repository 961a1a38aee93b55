"""What the planned seeds of a comparison can show, before it is run.

The rule of inference (:mod:`hiddenkey.lab.evidence.inference`) compares each configuration with the
baseline, pair by pair, and corrects for all those of a task. What that can show follows from the
standard deviation of a pair's difference: measured on runs of the same plan that are finished, or
else assumed.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from hiddenkey.lab.evidence.cells import Cell, tabulate_cells
from hiddenkey.lab.evidence.comparisons import MARGIN
from hiddenkey.lab.evidence.configurations import ConfiguredRun, find_runs
from hiddenkey.lab.evidence.inference import FEWEST
from hiddenkey.lab.evidence.planning import Design
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.results.command_result import measure_of
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.tasks import find_task


@dataclass(frozen=True)
class Scatter:
    """How far the paired differences of a task vary from seed to seed.

    Attributes:
        deviation: their standard deviation, on the metric's scale.
        margin: the difference that matters.
        source: where it is known from.
    """

    deviation: float
    margin: float
    source: str


ASSUMED: Final = 0.013
"""Standard deviation of a pair's difference where nothing is measured: 1.3 percentage points."""

_SHARES: Final = ("accuracy", "acc", "f1", "precision", "recall")
"""Last words of metrics from 0 to 1, whose differences scatter as accuracies do."""

ASSUMED_ON: Final = 500
"""Evaluation examples that it was measured on."""

SEEDS: Final = range(6, 11)
"""Fewest and most seeds that are planned for who does not say; see :func:`usual_seeds`."""

_MATTERS: Final = 0.05
_SOURCE: Final = (
    "assumed: HiddenKey − LoRA on headlines, five seeds (docs/results/demonstration.md)"
)


def assumed(examples: int | None = None) -> Scatter:
    """Return the scatter where nothing is measured.

    Fewer evaluation examples than those of the measurement scatter more, as a share does: by the
    square root of their number. More are not taken to scatter less, since seeds do all the same.
    """
    if examples is None or examples >= ASSUMED_ON:
        return Scatter(ASSUMED, MARGIN, _SOURCE)
    deviation = ASSUMED * math.sqrt(ASSUMED_ON / max(1, examples))
    source = f"{_SOURCE}, for {examples:,} evaluation examples in place of {ASSUMED_ON}"
    return Scatter(deviation, MARGIN, source)


def usual_seeds(judged: int, comparisons: int) -> int:
    """How many seeds reach a verdict on differences that matter, where not too many do.

    Args:
        judged: evaluation examples.
        comparisons: configurations that are compared with the baseline.
    """
    design = Design(SEEDS[0], assumed(judged).deviation, family=max(1, comparisons))
    needed = design.pairs_needed(_MATTERS) or SEEDS[-1]
    return min(SEEDS[-1], max(SEEDS[0], needed))


@dataclass(frozen=True)
class Prospect:
    """What the planned seeds can show on one task.

    Attributes:
        task: its name.
        metric: its main metric.
        pairs: paired seeds.
        comparisons: configurations that are compared with the baseline, and corrected together.
        runs: of one seed.
        scatter: of the differences; ``None`` if it is not known, as before any run of a task whose
            metric has no usual scale.
        seed_seconds: what one seed of all configurations takes, if it was measured.
    """

    task: str
    metric: str
    pairs: int
    comparisons: int
    runs: int
    scatter: Scatter | None
    seed_seconds: float | None = None

    @property
    def reaches_verdict(self) -> bool:
        """Whether any verdict is within reach."""
        return self.pairs >= FEWEST and self.comparisons > 0

    @property
    def detectable(self) -> float | None:
        """Smallest difference that is shown with a chance of 80 %, on the metric's scale."""
        return None if self.scatter is None else self._design(self.scatter).detectable()

    @property
    def needed(self) -> int | None:
        """Fewest seeds that show a difference of the margin with a chance of 80 %."""
        if self.scatter is None or not self.comparisons:
            return None
        return self._design(self.scatter).pairs_needed(self.scatter.margin)

    @property
    def needed_seconds(self) -> float | None:
        """What :attr:`needed` seeds take from the start, one run after the other."""
        if self.needed is None or self.seed_seconds is None:
            return None
        return self.needed * self.seed_seconds

    def _design(self, scatter: Scatter) -> Design:
        return Design(self.pairs, scatter.deviation, family=max(1, self.comparisons))


def prospects(
    plan: Plan,
    records: Iterable[Record],
    seconds: Callable[[TrainOptions], float] | None = None,
    examples: Callable[[TrainOptions], int] | None = None,
) -> list[Prospect]:
    """Say for each task of a plan what its seeds can show.

    Args:
        plan: the plan.
        records: of its runs that ended.
        seconds: of the runs of one configuration with one seed, where that was measured.
        examples: that a configuration is evaluated on, where that is known.
    """
    finished = [r for r in records if r.result is not None and r.budget == "steps"]
    known = _measured(finished, plan)
    if plan.command is not None:
        return _of_command(plan, finished, known)
    settings, starts = plan.settings(), [group[0] for group in plan.contenders()]
    found = []
    for task in plan.tasks:
        options = [each for each in settings if each.task == task]
        resolved = find_task(task, options[0])
        judged = None if examples is None else min(map(examples, options))
        usual = None if resolved.kind == "generation" else _wanted(assumed(judged), plan)
        firsts = [each for each in options if each in starts]
        comparisons = sum(each.method != plan.baseline for each in firsts)
        found.append(
            Prospect(
                task=task,
                metric=resolved.metrics[0],
                pairs=len(plan.seeds),
                comparisons=comparisons,
                runs=len(firsts) + (comparisons if plan.equal_time else 0),
                scatter=known.get(task, usual),
                seed_seconds=None if seconds is None else sum(map(seconds, firsts)),
            )
        )
    return found


def _of_command(
    plan: Plan, finished: Sequence[Record], known: Mapping[str, Scatter]
) -> list[Prospect]:
    """Say it for a command, whose time is known from its finished runs alone."""
    metric = measure_of(plan.metric or "")
    usual = _wanted(assumed(), plan) if metric.rpartition("_")[2] in _SHARES else None
    seconds = [record.result.seconds for record in finished if record.result is not None]
    firsts = [group[0] for group in plan.contenders()]
    by_task = Counter(options.task for options in firsts)
    compared = Counter(options.task for options in firsts if options.method != plan.baseline)
    return [
        Prospect(
            task=task,
            metric=metric,
            pairs=len(plan.seeds),
            comparisons=compared[task],
            runs=runs,
            scatter=known.get(task, usual),
            seed_seconds=runs * fmean(seconds) if seconds else None,
        )
        for task, runs in by_task.items()
    ]


def _wanted(scatter: Scatter, plan: Plan) -> Scatter:
    """The same scatter with the plan's own margin, if it names one."""
    return scatter if plan.margin is None else dataclasses.replace(scatter, margin=plan.margin)


def _measured(records: Sequence[Record], plan: Plan) -> dict[str, Scatter]:
    """The scatter of each task with enough finished pairs, pooled over its configurations."""
    baseline, margin = plan.baseline, plan.margin
    by_task: dict[str, list[ConfiguredRun]] = defaultdict(list)
    for run in find_runs(records, "steps", baseline):
        by_task[run.task.name].append(run)
    found = {
        task: _scatter(tabulate_cells(runs, baseline, margin)) for task, runs in by_task.items()
    }
    return {task: scatter for task, scatter in found.items() if scatter is not None}


def _scatter(cells: Sequence[Cell]) -> Scatter | None:
    compared = [
        cell.comparison
        for cell in cells
        if cell.is_main("last") and cell.comparison and cell.comparison.count >= FEWEST
    ]
    if all(each.estimate.is_constant for each in compared):  # nothing shows how far they vary
        return None
    free = sum(each.count - 1 for each in compared)
    squares = sum((each.count - 1) * (each.estimate.deviation or 0.0) ** 2 for each in compared)
    pairs = sum(each.count for each in compared)
    margin = sum(each.count * each.margin for each in compared) / pairs
    source = f"measured on {pairs} finished pairs of this plan"
    return Scatter(math.sqrt(squares / free), margin, source)
