"""Which of several better configurations to recommend, without tuning on the evaluation examples.

A mean that is larger by chance is no reason. Configurations that the rule of inference does not
distinguish from the one with the best mean are equals: of them the cheapest is taken, then the
one nearest to its method's own settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from hiddenkey.framework.catalogue import methods
from hiddenkey.lab.evidence.axes import RunConfiguration
from hiddenkey.lab.evidence.cells import Cell
from hiddenkey.lab.evidence.comparisons import PairedComparison, adjust_holm, compare_paired
from hiddenkey.lab.evidence.costs import Cost
from hiddenkey.lab.evidence.inference import FEWEST


def comparison_of(cell: Cell) -> PairedComparison:
    """Return the comparison of a cell that has one."""
    assert cell.comparison is not None
    return cell.comparison


def gain_of(cell: Cell) -> float:
    """Return the mean difference to the baseline, positive where it is better."""
    return cell.measure.worth(comparison_of(cell).difference)


def recommended(compared: Sequence[Cell], costs: Sequence[Cost]) -> tuple[Cell, str]:
    """Return the cell of the configuration to train with, and why that one.

    Args:
        compared: cells of the main metric after the last step, one or more of them better.
        costs: of all configurations.
    """
    better = [cell for cell in compared if comparison_of(cell).verdict == "better"]
    best = max(better, key=gain_of)
    alike = [best, *_not_distinguished(best, [cell for cell in better if cell is not best])]
    known = _cost_by_family(costs)
    seconds = {cell.configuration: known.get(cell.configuration.family, 0.0) for cell in alike}
    found = min(
        alike,
        key=lambda cell: (
            seconds[cell.configuration],
            *_departure(cell.configuration),
            cell is not best,
        ),
    )
    cheaper = seconds[found.configuration] < seconds[best.configuration]
    note = comparison_of(found).note
    return found, " ".join(filter(None, (_reason(better, alike, best, found, cheaper), note)))


def _reason(
    better: Sequence[Cell], alike: Sequence[Cell], best: Cell, found: Cell, cheaper: bool
) -> str:
    if len(better) == 1:
        return "It is the only configuration that is shown to be better."
    if len(alike) == 1:
        others = f"{len(better) - 1} that are" if len(better) > 2 else "one that is"
        return f"It is shown to be better than the other {others} better too."
    if found is best:
        return (
            f"Of {len(better)} better configurations it has the best mean, and none that is not"
            " distinguished from it takes less time."
        )
    what = "takes less time" if cheaper else "is nearer to the method's own settings"
    several = f"The {len(better)} better configurations are not distinguished from each other"
    if len(alike) < len(better):
        several = f"{len(alike)} of {len(better)} better configurations are not distinguished"
    return (
        f"{several} by these seeds: {best.configuration.label} has the best mean, but"
        f" {found.configuration.label} {what}."
    )


def _not_distinguished(best: Cell, others: Sequence[Cell]) -> list[Cell]:
    """The cells that the rule of inference does not show to be worse than the best one."""
    mine = dict(best.values)
    found: dict[RunConfiguration, PairedComparison] = {}
    for cell in others:
        own = dict(cell.values)
        seeds = sorted(own.keys() & mine.keys())
        if len(seeds) >= FEWEST:
            found[cell.configuration] = compare_paired(
                [own[seed] for seed in seeds],
                [mine[seed] for seed in seeds],
                larger_is_better=cell.measure.larger_is_better,
            )
    worse = {
        configuration
        for configuration, each in (adjust_holm(found) if found else {}).items()
        if each.verdict == "worse"
    }
    return [cell for cell in others if cell.configuration not in worse]


def _cost_by_family(costs: Sequence[Cost]) -> dict[str, float]:
    """Time of each method's runs; rates do not change it, so its configurations share one.

    Ratios to the baseline's time say more than seconds, where all have the same baseline.
    """
    same = len({(cost.configuration.model, cost.configuration.rank) for cost in costs}) == 1
    timed = same and all(cost.time is not None for cost in costs)
    found: dict[str, list[float]] = {}
    for cost in costs:
        each = cost.time.value if timed and cost.time else cost.seconds_per_step
        found.setdefault(cost.configuration.family, []).append(each * cost.steps)
    return {family: median(values) for family, values in found.items()}


def _departure(configuration: RunConfiguration) -> tuple[Any, ...]:
    """How far a configuration is from its method's own, as a sort key that knows no result."""
    entry = methods().get(configuration.method)
    rates = {drop.rate for drop in entry.config.drops} if entry else set()
    consistency = entry.config.consistency if entry else None
    own_weight = consistency.weight if consistency else None
    changed = (
        (configuration.rate not in rates)
        + (configuration.weight != own_weight)
        + len(configuration.others)
    )
    return changed, configuration.rate or 0.0, configuration.weight or 0.0
