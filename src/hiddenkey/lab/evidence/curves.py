"""What was measured during training: curves, and the gap between training and evaluation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

from hiddenkey.lab.evidence.arms import Run
from hiddenkey.lab.evidence.axes import Arm
from hiddenkey.lab.evidence.cells import LOSS, finite
from hiddenkey.lab.evidence.comparisons import describe
from hiddenkey.lab.evidence.findings import Curve, CurvePoint, Gap

_EVALUATION: Final = "eval_"
_TRAINING: Final = "train_sample_"
Part = Literal["evaluation", "training", "gap"]


def tabulate_curves(runs: Sequence[Run], also: Sequence[str] = ()) -> tuple[Curve, ...]:
    """Average each arm's evaluations step by step over its finished runs.

    Args:
        runs: of one task.
        also: what to follow beside the main metric and the loss.
    """
    return tuple(
        curve
        for arm, group in _by_arm(runs).items()
        for name in dict.fromkeys((_main_metric(group), LOSS, *also))
        for part, read in readers(name).items()
        if (curve := Curve(arm, name, part, _points(group, read))).points
    )


def tabulate_gaps(runs: Sequence[Run]) -> tuple[Gap, ...]:
    """Summarise, for each arm, the gap after the last step."""
    gaps = []
    for arm, group in _by_arm(runs).items():
        for name in (_main_metric(group), LOSS):
            triples = [triple for run in group if (triple := _gap_of(run, name)) is not None]
            if triples:
                train, evaluation, gap = (describe(column) for column in zip(*triples, strict=True))
                gaps.append(Gap(arm, name, train, evaluation, gap))
    return tuple(gaps)


def _by_arm(runs: Sequence[Run]) -> dict[Arm, list[Run]]:
    groups: dict[Arm, list[Run]] = defaultdict(list)
    for run in runs:
        if run.record.result is not None:
            groups[run.arm].append(run)
    return groups


def _main_metric(runs: Sequence[Run]) -> str:
    return next(run.record.result.main_metric for run in runs if run.record.result is not None)


def readers(name: str) -> dict[Part, Callable[[Mapping[str, Any]], float | None]]:
    """Return what reads a metric off a line of ``metrics.jsonl``, by part.

    A reader returns ``None`` where the line has no finite number.
    """

    def evaluation(line: Mapping[str, Any]) -> float | None:
        return finite(line.get(_EVALUATION + name))

    def training(line: Mapping[str, Any]) -> float | None:
        return finite(line.get(_TRAINING + name))

    def gap(line: Mapping[str, Any]) -> float | None:
        train, dev = training(line), evaluation(line)
        return None if train is None or dev is None else train - dev

    return {"evaluation": evaluation, "training": training, "gap": gap}


def _points(
    runs: Sequence[Run], read: Callable[[Mapping[str, Any]], float | None]
) -> tuple[CurvePoint, ...]:
    values: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        for line in run.record.metrics:
            value = read(line)
            if value is not None:
                values[int(line["step"])].append(value)
    return tuple(CurvePoint(step, describe(values[step])) for step in sorted(values))


def _gap_of(run: Run, name: str) -> tuple[float, float, float] | None:
    result = run.record.result
    if result is None:
        return None
    train, gap = finite(result.train_sample.get(name)), finite(result.gap.get(name))
    return None if train is None or gap is None else (train, train - gap, gap)
