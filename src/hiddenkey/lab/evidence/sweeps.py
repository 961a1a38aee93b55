"""The main metric over one option, and the best of several arms of a method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from operator import itemgetter
from typing import Final

from hiddenkey.lab.evidence.axes import Arm
from hiddenkey.lab.evidence.findings import Cell, Selection, Series, Sweep, SweepPoint

_OPTIONS: Final[dict[str, Callable[[Arm], float | None]]] = {
    "rate": lambda arm: arm.rate,
    "rank": lambda arm: arm.rank,
    "consistency_weight": lambda arm: arm.weight,
}
_Place = tuple[Hashable, ...]


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
            groups[cell.arm.family].append((cell.description.mean, cell))
    if all(len(group) == 1 for group in groups.values()):
        return ()
    best = {family: max(group, key=itemgetter(0))[1] for family, group in groups.items()}
    return tuple(Selection(best[family], len(group)) for family, group in groups.items())


def _sweep(option: str, cells: Sequence[Cell], baseline: str) -> Sweep | None:
    read = _OPTIONS[option]
    best = {cell.arm: cell.description for cell in cells if cell.is_main("best")}
    groups: dict[_Place, list[tuple[Arm, SweepPoint]]] = defaultdict(list)
    levels = []
    for cell in (cell for cell in cells if cell.is_main("last")):
        arm, x = cell.arm, read(cell.arm)
        point = SweepPoint(float(x or 0), cell.description, best.get(arm))
        if x is not None:
            groups[_place(arm, option)].append((arm, point))
        elif arm.method == baseline and cell.description is not None:
            levels.append(_series(option, [(arm, point)]))
    several = [group for group in groups.values() if len({point.x for _, point in group}) > 1]
    if not several:
        return None
    series = [_series(option, group) for group in groups.values()]
    return Sweep(option, tuple(series), tuple(levels))


def _place(arm: Arm, option: str) -> _Place:
    """All that arms of one line share."""
    parts = {"rank": arm.rank, "rate": arm.rate, "consistency_weight": arm.weight}
    kept = [value for name, value in parts.items() if name != option]
    return arm.method, arm.model, *kept, arm.others


def _series(option: str, group: Sequence[tuple[Arm, SweepPoint]]) -> Series:
    """Name a line by what its arms share: the label without the swept option."""
    arm = group[0][0]
    prefix = option.replace("_", " ") + " "
    parts = [part for part in arm.label.split(", ") if not part.startswith(prefix)]
    points = sorted((point for _, point in group), key=lambda point: point.x)
    return Series(", ".join(parts), arm.method, frozenset(parts[1:]), tuple(points))
