"""The main metric over one option, and the best of several arms of a method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from hiddenkey.lab.evidence.axes import Arm
from hiddenkey.lab.evidence.cells import Cell
from hiddenkey.lab.evidence.inference import Estimate

_OPTIONS: Final = {"rate": "rate", "rank": "rank", "consistency_weight": "weight"}
"""Options that are swept, and the arm's attribute that has them."""


@dataclass(frozen=True)
class SweepPoint:
    """One arm of a sweep.

    Attributes:
        x: value of the swept option; 0 for a level.
        last: main metric after the last step.
        best: main metric at the best evaluation.
    """

    x: float
    last: Estimate | None
    best: Estimate | None


@dataclass(frozen=True)
class Series:
    """Arms that differ in the swept option alone.

    Attributes:
        label: what they share.
        method: their method.
        others: what they share besides the method; lines of different ``others`` are not drawn in
            one picture, but a line whose ``others`` are part of a picture's joins it.
        points: in the option's order.
    """

    label: str
    method: str
    others: frozenset[str]
    points: tuple[SweepPoint, ...]


@dataclass(frozen=True)
class Sweep:
    """The main metric over one option.

    Attributes:
        option: ``rate``, ``rank`` or ``consistency_weight``.
        series: one line each; at least one has two points or more.
        levels: the baseline where it lacks the option: lines of one point without a place.
    """

    option: str
    series: tuple[Series, ...]
    levels: tuple[Series, ...]


@dataclass(frozen=True)
class Selection:
    """The arm of a method with the best mean: chosen on the evaluation examples.

    Attributes:
        cell: that of the arm with the best mean after the last step.
        tried: number of arms it was chosen from.
    """

    cell: Cell
    tried: int

    @property
    def chosen(self) -> Arm:
        """The arm; its ``family`` are those that it was chosen from."""
        return self.cell.arm


def tabulate_sweeps(cells: Sequence[Cell], baseline: str) -> tuple[Sweep, ...]:
    """Return a sweep for each option that some arms differ in alone."""
    sweeps = (_sweep(option, cells, baseline) for option in _OPTIONS)
    return tuple(sweep for sweep in sweeps if sweep is not None)


def tabulate_selections(cells: Sequence[Cell]) -> tuple[Selection, ...]:
    """Return each method's best arm after the last step, for each model and rank.

    The arms of the same method compete; where no method has several, nothing is selected.
    """
    groups: dict[str, list[tuple[float, Cell]]] = defaultdict(list)
    for cell in cells:
        if cell.is_main("last") and cell.description is not None:
            groups[cell.arm.family].append((cell.measure.worth(cell.description.mean), cell))
    if all(len(group) == 1 for group in groups.values()):
        return ()
    best = {family: max(group, key=itemgetter(0))[1] for family, group in groups.items()}
    return tuple(Selection(best[family], len(group)) for family, group in groups.items())


def _sweep(option: str, cells: Sequence[Cell], baseline: str) -> Sweep | None:
    best = {cell.arm: cell.description for cell in cells if cell.is_main("best")}
    groups: dict[tuple[Hashable, ...], list[tuple[Arm, SweepPoint]]] = defaultdict(list)
    levels = []
    for cell in (cell for cell in cells if cell.is_main("last")):
        arm, x = cell.arm, getattr(cell.arm, _OPTIONS[option])
        point = SweepPoint(float(x or 0), cell.description, best.get(arm))
        if x is not None:
            same = (getattr(arm, name) for other, name in _OPTIONS.items() if other != option)
            groups[arm.method, arm.model, *same, arm.others].append((arm, point))
        elif arm.method == baseline and cell.description is not None:
            levels.append(_series(option, [(arm, point)]))
    several = [group for group in groups.values() if len({point.x for _, point in group}) > 1]
    if not several:
        return None
    series = [_series(option, group) for group in groups.values()]
    return Sweep(option, tuple(series), tuple(levels))


def _series(option: str, group: Sequence[tuple[Arm, SweepPoint]]) -> Series:
    """Name a line by what its arms share: the label without the swept option."""
    arm = group[0][0]
    prefix = option.replace("_", " ") + " "
    parts = [part for part in arm.label.split(", ") if not part.startswith(prefix)]
    points = sorted((point for _, point in group), key=lambda point: point.x)
    return Series(", ".join(parts), arm.method, frozenset(parts[1:]), tuple(points))
