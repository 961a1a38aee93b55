"""What was measured during training: curves, and the gap between training and evaluation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from hiddenkey.lab.evidence.axes import RunConfiguration
from hiddenkey.lab.evidence.cells import LOSS, finite
from hiddenkey.lab.evidence.comparisons import describe
from hiddenkey.lab.evidence.configurations import ConfiguredRun
from hiddenkey.lab.evidence.inference import Estimate

Part = Literal["evaluation", "training", "gap"]
_PARTS: Final[tuple[Part, ...]] = ("evaluation", "training", "gap")


@dataclass(frozen=True)
class CurvePoint:
    """A value at one step, over the runs that have it."""

    step: int
    spread: Estimate


@dataclass(frozen=True)
class Curve:
    """A value over the steps of training.

    Attributes:
        configuration: the configuration.
        name: main metric or ``loss``.
        part: ``evaluation`` or ``training`` examples, or the ``gap`` training minus evaluation;
            all without noise.
        points: in the order of the steps.
    """

    configuration: RunConfiguration
    name: str
    part: Literal["evaluation", "training", "gap"]
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class GeneralisationGap:
    """Training examples against evaluation examples after the last step, without noise.

    Attributes:
        configuration: the configuration.
        name: main metric or ``loss``.
        evaluation: on the evaluation examples.
        training: on a fixed sample of the training examples.
        gap: ``training`` minus ``evaluation``.
    """

    configuration: RunConfiguration
    name: str
    evaluation: Estimate
    training: Estimate
    gap: Estimate


def tabulate_curves(runs: Sequence[ConfiguredRun], also: Sequence[str] = ()) -> tuple[Curve, ...]:
    """Average each configuration's evaluations step by step over its finished runs.

    Args:
        runs: of one task.
        also: what to follow beside the main metric and the loss.
    """
    return tuple(
        curve
        for (configuration, metric), group in _finished(runs).items()
        for name in dict.fromkeys((metric, LOSS, *also))
        for part in _PARTS
        if (curve := Curve(configuration, name, part, _points(group, name, part))).points
    )


def tabulate_gaps(runs: Sequence[ConfiguredRun]) -> tuple[GeneralisationGap, ...]:
    """Summarise each configuration's gap after the last step, over the runs that have one."""
    gaps = []
    for (configuration, metric), group in _finished(runs).items():
        for name in dict.fromkeys((metric, LOSS)):
            lines = [line for run in group for line in run.record.metrics[-1:]]
            rows = [[value_at(line, name, part) for part in _PARTS] for line in lines]
            whole = [[value for value in row if value is not None] for row in rows]
            columns = [*zip(*(row for row in whole if len(row) == len(_PARTS)), strict=True)]
            if columns:
                gaps.append(GeneralisationGap(configuration, name, *map(describe, columns)))
    return tuple(gaps)


def value_at(line: Mapping[str, Any], name: str, part: Part) -> float | None:
    """Return a metric of a line of ``metrics.jsonl``; ``None`` where it is no finite number."""
    evaluation = finite(line.get(f"eval_{name}"))
    training = finite(line.get(f"train_sample_{name}"))
    if part == "gap":
        return None if training is None or evaluation is None else training - evaluation
    return evaluation if part == "evaluation" else training


def _finished(
    runs: Sequence[ConfiguredRun],
) -> dict[tuple[RunConfiguration, str], list[ConfiguredRun]]:
    """Finished runs by configuration and main metric."""
    groups: dict[tuple[RunConfiguration, str], list[ConfiguredRun]] = defaultdict(list)
    for run in runs:
        if run.record.result is not None:
            groups[run.configuration, run.record.result.main_metric].append(run)
    return groups


def _points(runs: Sequence[ConfiguredRun], name: str, part: Part) -> tuple[CurvePoint, ...]:
    values: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        for line in run.record.metrics:
            value = value_at(line, name, part)
            if value is not None:
                values[int(line["step"])].append(value)
    return tuple(CurvePoint(step, describe(values[step])) for step in sorted(values))
