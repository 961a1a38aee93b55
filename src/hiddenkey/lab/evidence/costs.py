"""What an arm costs, beside what it gains."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence

from hiddenkey.lab.evidence.arms import Run
from hiddenkey.lab.evidence.axes import Arm
from hiddenkey.lab.evidence.cells import finite
from hiddenkey.lab.evidence.findings import Cell, Cost
from hiddenkey.lab.evidence.inference import Ratio
from hiddenkey.lab.evidence.pairing import find_baselines
from hiddenkey.lab.run.result import Result


def tabulate_costs(runs: Sequence[Run], cells: Sequence[Cell], baseline: str) -> tuple[Cost, ...]:
    """Return seconds per step and peak memory of each arm, relative to its baseline's."""
    finished: dict[Arm, list[Run]] = defaultdict(list)
    groups: dict[Arm, dict[int, Result]] = defaultdict(dict)
    for run in runs:
        if run.record.result is not None:
            finished[run.arm].append(run)
            groups[run.arm][run.seed] = run.record.result
    against = find_baselines(finished, baseline)
    gains = {
        cell.arm: cell.comparison
        for cell in cells
        if cell.measure.main and cell.measure.checkpoint == "last"
    }
    costs = []
    for arm, results in groups.items():
        base = arm if arm.method == baseline else against[arm]
        others = {} if base is None else groups[base]
        sample = next(iter(results.values()))
        costs.append(
            Cost(
                arm=arm,
                runs=len(results),
                steps=statistics.median(r.steps for r in results.values()),
                seconds_per_step=statistics.median(r.seconds_per_step for r in results.values()),
                time=_ratio(results, others, lambda r: r.seconds_per_step),
                memory_mib=finite(statistics.median(memory(r) for r in results.values())),
                memory=_ratio(results, others, memory),
                device_memory=sample.peak_device_memory_mib is not None,
                lora_parameters=sample.lora_parameters,
                gain=gains.get(arm),
            )
        )
    return tuple(costs)


def memory(result: Result) -> float:
    """Return the peak memory in MiB, of the accelerator where there is one; NaN if not known."""
    for found in (result.peak_device_memory_mib, result.peak_memory_mib):
        if found is not None:
            return found
    return math.nan


def _ratio(
    results: dict[int, Result], others: dict[int, Result], read: Callable[[Result], float]
) -> Ratio | None:
    """Ratio over common seeds: runs of one seed are trained near each other in time."""
    pairs = [(read(results[seed]), read(others[seed])) for seed in results.keys() & others.keys()]
    known = [(own, base) for own, base in pairs if own > 0 and base > 0]
    return Ratio.of(*zip(*known, strict=True)) if known else None
