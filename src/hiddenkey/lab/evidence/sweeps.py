"""The main metric over one option, and the best of several configurations of a method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from hiddenkey.lab.evidence.axes import RunConfiguration
from hiddenkey.lab.evidence.cells import Cell
from hiddenkey.lab.evidence.inference import Estimate

_OPTIONS: Final = {"rate": "rate", "rank": "rank", "consistency_weight": "weight"}
"""Options that are swept, and the configuration's attribute that has them."""


@dataclass(frozen=True)
class SweepPoint:
    """One configuration of a sweep.

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
    """Configurations that differ in the swept option alone.

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
    """The configuration of a method with the best mean: chosen on the evaluation examples.

    Attributes:
        cell: that of the configuration with the best mean after the last step.
        tried: number of configurations it was chosen from.
    """

    cell: Cell
    tried: int

    @property
    def chosen(self) -> RunConfiguration:
        """The configuration; its ``family`` are those that it was chosen from."""
        return self.cell.configuration


def tabulate_sweeps(cells: Sequence[Cell], baseline: str) -> tuple[Sweep, ...]:
    """Return a sweep for each option that some configurations differ in alone."""
    sweeps = (_sweep(option, cells, baseline) for option in _OPTIONS)
    return tuple(sweep for sweep in sweeps if sweep is not None)


def tabulate_selections(cells: Sequence[Cell]) -> tuple[Selection, ...]:
    """Return each method's best configuration after the last step, for each model and rank.

    The configurations of the same method compete; where no method has several, nothing is selected.
    """
    groups: dict[str, list[tuple[float, Cell]]] = defaultdict(list)
    for cell in cells:
        if cell.is_main("last") and cell.description is not None:
            groups[cell.configuration.family].append(
                (cell.measure.worth(cell.description.mean), cell)
            )
    if all(len(group) == 1 for group in groups.values()):
        return ()
    best = {family: max(group, key=itemgetter(0))[1] for family, group in groups.items()}
    return tuple(Selection(best[family], len(group)) for family, group in groups.items())


def _sweep(option: str, cells: Sequence[Cell], baseline: str) -> Sweep | None:
    best = {cell.configuration: cell.description for cell in cells if cell.is_main("best")}
    groups: dict[tuple[Hashable, ...], list[tuple[RunConfiguration, SweepPoint]]] = defaultdict(
        list
    )
    levels = []
    for cell in (cell for cell in cells if cell.is_main("last")):
        configuration, x = cell.configuration, getattr(cell.configuration, _OPTIONS[option])
        point = SweepPoint(float(x or 0), cell.description, best.get(configuration))
        if x is not None:
            same = (
                getattr(configuration, name) for other, name in _OPTIONS.items() if other != option
            )
            groups[configuration.method, configuration.model, *same, configuration.others].append(
                (configuration, point)
            )
        elif configuration.method == baseline and cell.description is not None:
            levels.append(_series(option, [(configuration, point)]))
    several = [group for group in groups.values() if len({point.x for _, point in group}) > 1]
    if not several:
        return None
    series = [_series(option, group) for group in groups.values()]
    return Sweep(option, tuple(series), tuple(levels))


def _series(option: str, group: Sequence[tuple[RunConfiguration, SweepPoint]]) -> Series:
    """Name a line by what its configurations share: the label without the swept option."""
    configuration = group[0][0]
    prefix = option.replace("_", " ") + " "
    parts = [part for part in configuration.label.split(", ") if not part.startswith(prefix)]
    points = sorted((point for _, point in group), key=lambda point: point.x)
    return Series(", ".join(parts), configuration.method, frozenset(parts[1:]), tuple(points))
