"""Does a method overfit less than plain LoRA, and are its probabilities more to be believed?

From records to a table of plain values: training minus evaluation, loss, calibration and confidence
over the steps, and after the last step each configuration's paired difference to the baseline.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from hiddenkey.lab.evidence.axes import Measure, RunConfiguration, Task
from hiddenkey.lab.evidence.cells import (
    LOSS,
    Cell,
    compare_configurations,
    differing,
    find_baselines,
    settings_of,
)
from hiddenkey.lab.evidence.configurations import ConfiguredRun, configuration_order, find_runs
from hiddenkey.lab.evidence.curves import Curve, Part, tabulate_curves, value_at
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.present.words import count, listing
from hiddenkey.lab.run.calibration import CALIBRATION
from study_records import arrange

ACCURACY: Final = "accuracy"
_OF_CLASSES: Final = (ACCURACY, "f1", "f1_macro", "matthews")


@dataclass(frozen=True)
class Quantity:
    """What is watched.

    Attributes:
        name: a metric, ``loss``, or one of :data:`CALIBRATION`.
        part: ``evaluation``: on the evaluation examples; ``gap``: on training minus evaluation
            examples. A larger metric gap and a smaller loss gap mean more overfitting.
    """

    name: str
    part: Part

    @property
    def label(self) -> str:
        """The quantity in words."""
        return f"{self.name} gap" if self.part == "gap" else self.name


@dataclass(frozen=True)
class Row:
    """One configuration on one task.

    Attributes:
        configuration: the configuration.
        seeds: number of its finished runs.
        against: label of its baseline; ``None`` for the baseline itself or without one.
        also_differs: options, beside those of the dropout method, that are not the baseline's.
        endings: the quantities of the task after the last step, in their order. ``better`` in a
            comparison's verdict only tells its direction.
    """

    configuration: RunConfiguration
    seeds: int
    against: str | None
    also_differs: tuple[str, ...]
    endings: tuple[Cell, ...]


@dataclass(frozen=True)
class TaskWatch:
    """All of one task.

    Attributes:
        task: the task.
        quantities: what its runs measured.
        rows: the baseline's first.
        curves: means over the seeds, by configuration, quantity and part.
        notes: what is missing, as sentences.
    """

    task: Task
    quantities: tuple[Quantity, ...]
    rows: tuple[Row, ...]
    curves: tuple[Curve, ...]
    notes: tuple[str, ...]


def watch_overfitting(
    records: Sequence[Record], baseline: str = "lora", chosen: Sequence[str] = ()
) -> tuple[TaskWatch, ...]:
    """Return, for each task, how far its runs overfit.

    Differences are paired by seed. Holm's correction is over the configurations of a task, for each
    quantity by itself.

    Args:
        records: finished runs.
        baseline: method that the others are compared with.
        chosen: methods to look at beside the baseline; none: all.

    Raises:
        ConfigError: if the baseline is unknown.
    """
    runs = arrange(records, baseline)
    if chosen:
        runs = [run for run in runs if run.configuration.method in (baseline, *chosen)]
    by_task: dict[Task, list[Record]] = defaultdict(list)
    for run in runs:
        by_task[run.task].append(run.record)
    # on a single task they are named by what differs on it, not by what differs between tasks
    return tuple(
        _watch(find_runs(own, "steps", baseline), task, baseline) for task, own in by_task.items()
    )


def _watch(runs: Sequence[ConfiguredRun], task: Task, baseline: str) -> TaskWatch:
    quantities = _quantities(runs, task)
    groups: dict[RunConfiguration, list[ConfiguredRun]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: configuration_order(run.configuration, baseline)):
        groups[run.configuration].append(run)
    against = find_baselines(groups, baseline)
    measures = {
        each: Measure(each.label, "last", main=False, lower=False if each.part == "gap" else None)
        for each in quantities
    }
    columns = [
        compare_configurations(groups, against, measure, partial(_ending, each))
        for each, measure in measures.items()
    ]
    settings = {configuration: settings_of(own[0]) for configuration, own in groups.items()}
    rows = tuple(
        Row(
            configuration=configuration,
            seeds=len(groups[configuration]),
            against=None if base is None else base.label,
            also_differs=() if base is None else differing(settings[configuration], settings[base]),
            endings=endings,
        )
        for (configuration, base), endings in zip(
            against.items(), zip(*columns, strict=True), strict=True
        )
    )
    curves = tabulate_curves(runs, [quantity.name for quantity in quantities])
    return TaskWatch(task, quantities, rows, curves, tuple(_notes(runs, task, rows, baseline)))


def _ending(quantity: Quantity, run: ConfiguredRun) -> float | None:
    """A run's value after the last step."""
    if not run.record.metrics:
        return None
    return value_at(run.record.metrics[-1], quantity.name, quantity.part)


def _quantities(runs: Sequence[ConfiguredRun], task: Task) -> tuple[Quantity, ...]:
    """What the runs of a task measured; calibration and accuracy where a line has them."""
    known = {name for run in runs for line in run.record.metrics for name in line}
    names = (task.metric, ACCURACY, LOSS, *CALIBRATION)
    present = [name for name in dict.fromkeys(names) if f"eval_{name}" in known]
    gaps = [Quantity(name, "gap") for name in (task.metric, LOSS)]
    return (*gaps, *(Quantity(name, "evaluation") for name in present))


def _notes(
    runs: Sequence[ConfiguredRun], task: Task, rows: Sequence[Row], baseline: str
) -> Iterator[str]:
    """Say which runs and comparisons are missing."""
    names = [f"eval_{name}" for name in CALIBRATION]
    old = [run for run in runs if any(n not in line for line in run.record.metrics for n in names)]
    if task.metric not in _OF_CLASSES:
        yield f"{task.label} is no classification: it has no calibration and no confidence."
    elif old:
        yield (
            f"{len(old)} of {count(len(runs), 'run')} of {task.label} were stored before"
            " evaluations measured calibration; run them again in a new folder to have it."
        )
    gone = {
        r.configuration.label: r.seeds - min(len(end.values) for end in r.endings[:2]) for r in rows
    }
    lost = [f"{label} ({most})" for label, most in gone.items() if most]
    if lost:
        yield (
            f"Runs that ended without a number are left out: {listing(lost)}. A run that diverged"
            " is a bad result, so these configurations look better here than they are."
        )
    others = [row for row in rows if row.configuration.method != baseline]
    alone = [row.configuration.label for row in others if row.endings[0].comparison is None]
    if alone:
        yield (
            f"Not compared, since {baseline} has no two runs of the same model, adapter, rank and"
            f" seeds: {listing(alone)}."
        )
