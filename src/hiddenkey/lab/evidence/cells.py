"""Configurations on tasks: values by seed, and the comparison with the nearest of the baseline."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from hiddenkey.lab.evidence.axes import Checkpoint, Measure, RunConfiguration
from hiddenkey.lab.evidence.comparisons import (
    PairedComparison,
    adjust_holm,
    compare_paired,
    describe,
)
from hiddenkey.lab.evidence.configurations import NO_SETTINGS, ConfiguredRun, explicit
from hiddenkey.lab.evidence.inference import Estimate
from hiddenkey.lab.run.result import PROBABILITY_MEASURES

LOSS: Final = "loss"
CHECKPOINTS: Final[tuple[Checkpoint, ...]] = ("last", "best")


@dataclass(frozen=True)
class Cell:
    """One configuration on one task by one measure.

    Attributes:
        configuration: the configuration.
        measure: the measure.
        values: value by seed, in the seeds' order.
        missing: finished runs without this value (a loss or metric that is no number).
        failed: runs that did not finish.
        description: summary of the values; ``None`` without values.
        against: label of the baseline's configuration; ``None`` if there is none.
        comparison: with the baseline, paired by seed; ``None`` if not possible.
        reason: why there is no comparison; empty otherwise.
    """

    configuration: RunConfiguration
    measure: Measure
    values: tuple[tuple[int, float], ...]
    missing: int
    failed: int
    description: Estimate | None
    against: str | None
    comparison: PairedComparison | None
    reason: str

    def is_main(self, checkpoint: Checkpoint) -> bool:
        """Whether it is of the task's main metric at a checkpoint."""
        return self.measure.main and self.measure.checkpoint == checkpoint


def tabulate_cells(
    runs: Sequence[ConfiguredRun], baseline: str, margin: float | None = None
) -> tuple[Cell, ...]:
    """Summarise one task's configurations by each measure; Holm's correction is over them.

    Args:
        runs: of the task.
        baseline: method that the others are compared with.
        margin: smallest difference of the main metric that matters; ``None`` for the usual one of
            :func:`~hiddenkey.lab.evidence.comparisons.compare_paired`, which all others have.
    """
    groups: dict[RunConfiguration, list[ConfiguredRun]] = defaultdict(list)
    for run in runs:
        groups[run.configuration].append(run)
    against = find_baselines(groups, baseline)
    return tuple(
        cell
        for measure in _measures(runs)
        for cell in compare_configurations(
            groups,
            against,
            measure,
            partial(value_of, measure=measure),
            margin if measure.main else None,
        )
    )


def compare_configurations(
    groups: Mapping[RunConfiguration, Sequence[ConfiguredRun]],
    against: Mapping[RunConfiguration, RunConfiguration | None],
    measure: Measure,
    read: Callable[[ConfiguredRun], float | None],
    margin: float | None = None,
) -> list[Cell]:
    """Summarise configurations by one measure; compare each with its baseline, Holm-corrected.

    Args:
        groups: runs of one task by configuration.
        against: the baseline of each configuration, as ``find_baselines`` returns them.
        measure: what is compared.
        read: a run's value; ``None`` where it has none.
        margin: smallest difference that matters; ``None`` for the usual one.
    """
    cells = {
        configuration: _cell(configuration, runs, measure, read, against[configuration])
        for configuration, runs in groups.items()
    }
    step = 0.0 if measure.name == LOSS else _step(groups)
    for configuration, cell in cells.items():
        base = against[configuration]
        if base is not None:
            cells[configuration] = _compared(cell, cells[base], margin, step)
    found = {
        configuration: cell.comparison
        for configuration, cell in cells.items()
        if cell.comparison is not None
    }
    for configuration, adjusted in (adjust_holm(found) if found else {}).items():
        cells[configuration] = dataclasses.replace(cells[configuration], comparison=adjusted)
    return list(cells.values())


def value_of(run: ConfiguredRun, measure: Measure) -> float | None:
    """Return a finished run's value, ``None`` if it is missing or no finite number."""
    result = run.record.result
    if result is None:
        return None
    if measure.name in result.calibration:
        return finite(result.calibration[measure.name])
    summary = result.eval_loss if measure.name == LOSS else result.metrics.get(measure.name)
    if summary is None:
        return None
    return finite(summary.last if measure.checkpoint == "last" else summary.best)


def finite(value: object) -> float | None:
    """Return a number, and ``None`` for what is none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _measures(runs: Sequence[ConfiguredRun]) -> list[Measure]:
    """The main metric, the evaluation loss and the other metrics, at both checkpoints.

    What a classifier's probabilities are worth is measured after the last step.
    """
    results = [run.record.result for run in runs if run.record.result is not None]
    main = next((result.main_metric for result in results), "")
    if not main:
        return []
    names = {name for result in results for name in result.metrics} - {main, LOSS}
    has_loss = any(result.eval_loss.best is not None for result in results)
    calibrated = {name for result in results for name in result.calibration}
    lower = _said_lower(runs)
    return [
        Measure(name, checkpoint, main=name == main, lower=lower if name == main else None)
        for name in dict.fromkeys((main, *([LOSS] if has_loss else []), *sorted(names)))
        for checkpoint in CHECKPOINTS
    ] + [
        Measure(name, "last", main=False, lower=True)
        for name in PROBABILITY_MEASURES
        if name in calibrated
    ]


def _said_lower(runs: Sequence[ConfiguredRun]) -> bool | None:
    """Whether the runs say that smaller values are better; ``None``: they do not say.

    A plan's ``false`` is its default and says nothing, that of a table's reader was given.
    """
    options = [run.record.options for run in runs]
    if any(each.get("lower_is_better") for each in options):
        return True
    given = any("source" in each and each.get("lower_is_better") is False for each in options)
    return False if given else None


def _cell(
    configuration: RunConfiguration,
    runs: Sequence[ConfiguredRun],
    measure: Measure,
    read: Callable[[ConfiguredRun], float | None],
    base: RunConfiguration | None,
) -> Cell:
    values = [(run.seed, read(run)) for run in runs]
    known = tuple(sorted((seed, value) for seed, value in values if value is not None))
    statuses = Counter(run.record.status for run in runs)
    return Cell(
        configuration=configuration,
        measure=measure,
        values=known,
        missing=statuses["finished"] - len(known),
        failed=statuses["failed"],
        description=describe([value for _, value in known]) if known else None,
        against=None if base is None else base.label,
        comparison=None,
        reason="" if base is not None else "no baseline",
    )


def _step(groups: Mapping[RunConfiguration, Sequence[ConfiguredRun]]) -> float:
    """What one evaluation example is of a share of them; 0 where their number is not known."""
    results = (run.record.result for runs in groups.values() for run in runs)
    return max(
        (1 / result.eval_examples for result in results if result and result.eval_examples),
        default=0.0,
    )


def _compared(cell: Cell, base: Cell, margin: float | None, step: float) -> Cell:
    ours, theirs = dict(cell.values), dict(base.values)
    seeds = sorted(ours.keys() & theirs.keys())
    if len(seeds) < 2:
        shared = "no seed" if not seeds else f"only seed {seeds[0]}"
        return dataclasses.replace(
            cell, reason=f"{shared} in common with {base.configuration.label}"
        )
    comparison = compare_paired(
        [ours[seed] for seed in seeds],
        [theirs[seed] for seed in seeds],
        larger_is_better=cell.measure.larger_is_better,
        margin=margin,
        step=step,
    )
    return dataclasses.replace(cell, comparison=comparison)


_OF_METHOD: Final = ("method", "rate", "rates", "consistency_weight")


def settings_of(run: ConfiguredRun) -> dict[str, Any]:
    """Return all of a run's settings but those of its task, its seed and its dropout method."""
    left_out = {*NO_SETTINGS, *_OF_METHOD}
    options = explicit(run.record.options)
    return {name: value for name, value in options.items() if name not in left_out}


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the settings that are not the same, in order."""
    return tuple(sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)))


def nearest(run: ConfiguredRun, others: Sequence[ConfiguredRun]) -> ConfiguredRun | None:
    """Return the run of the same task, model, adapter and rank whose other settings differ least.

    Of several that differ as little it is one at the same dropout rate, if there is one.
    """
    alike = [other for other in others if _kind(other) == _kind(run)]
    own = settings_of(run)
    return min(
        alike,
        key=lambda other: (
            len(differing(own, settings_of(other))),
            other.configuration.rate != run.configuration.rate,
            other.configuration.label,
        ),
        default=None,
    )


def _kind(run: ConfiguredRun) -> tuple[Any, ...]:
    """What is trained, and on what: runs that differ in it are never set against each other."""
    return (
        run.task,
        run.configuration.model,
        run.configuration.rank,
        run.record.options.get("adapter", "lora"),
    )


def find_baselines(
    groups: Mapping[RunConfiguration, Sequence[ConfiguredRun]], baseline: str
) -> dict[RunConfiguration, RunConfiguration | None]:
    """Return the baseline of each configuration; ``None`` for its own and where none fits.

    Args:
        groups: runs of one task by configuration.
        baseline: name of the baseline's method.
    """
    plain = [runs[0] for configuration, runs in groups.items() if configuration.method == baseline]
    found = {configuration: nearest(runs[0], plain) for configuration, runs in groups.items()}
    return {
        configuration: None
        if run is None or configuration.method == baseline
        else run.configuration
        for configuration, run in found.items()
    }
