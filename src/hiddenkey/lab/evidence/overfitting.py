"""Whether runs overfit: the evaluation loss rises after its minimum by more than noise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from hiddenkey.lab.evidence.curves import value_at
from hiddenkey.lab.evidence.inference import FEWEST, Estimate
from hiddenkey.lab.evidence.record import Record


@dataclass(frozen=True)
class Overfitting:
    """How far the evaluation loss of some runs rises from its minimum to the last step.

    Each run's rise begins at the step where the mean of the *other* runs is lowest. A run's own
    minimum would make every run rise, by chance alone.

    Attributes:
        rise: of the loss, over the runs.
        step: where the mean of all runs is lowest.
        steps: the last step.
    """

    rise: Estimate
    step: int
    steps: int

    @property
    def shown(self) -> bool:
        """Whether the rise is more than noise: its 95 % interval lies above 0."""
        return self.rise.low is not None and self.rise.low > 0


def find_overfitting(records: Iterable[Record]) -> Overfitting | None:
    """Compare the last evaluation loss with the lowest.

    Args:
        records: runs of one configuration that differ in the seed; those that failed, or have no
            loss at some step, are left out.

    Returns:
        What was found; ``None`` with fewer than three runs, or with one evaluation each.
    """
    curves = [curve for record in records if record.result and (curve := _curve(record))]
    steps = sorted(set[int]().union(*curves))
    whole = [curve for curve in curves if len(curve) == len(steps)]
    if len(whole) < FEWEST or len(steps) < 2:
        return None
    rises = [
        own[steps[-1]] - own[_lowest([c for c in whole if c is not own], steps)] for own in whole
    ]
    return Overfitting(Estimate.of(rises, resolution=0), _lowest(whole, steps), steps[-1])


def _curve(record: Record) -> dict[int, float]:
    found = {int(line["step"]): value_at(line, "loss", "evaluation") for line in record.metrics}
    return {step: value for step, value in found.items() if value is not None}


def _lowest(curves: list[dict[int, float]], steps: list[int]) -> int:
    return min(steps, key=lambda step: fmean(curve[step] for curve in curves))
