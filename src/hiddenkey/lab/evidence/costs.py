"""What a configuration costs, beside what it gains: times of runs, or of steps that took turns."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.files import write_whole
from hiddenkey.lab.evidence.axes import RunConfiguration
from hiddenkey.lab.evidence.cells import Cell, find_baselines, finite
from hiddenkey.lab.evidence.comparisons import PairedComparison
from hiddenkey.lab.evidence.configurations import ConfiguredRun
from hiddenkey.lab.evidence.inference import Ratio
from hiddenkey.lab.run.result import Result
from hiddenkey.lab.run.stored import build

FILE: Final = "step_times.json"

TimedPlace = tuple[str, str, int, str]
"""Task, model, rank and method; a dropout rate does not change how long a step takes."""


@dataclass(frozen=True)
class StepTimes:
    """Steps of one method and of the baseline on one task, as they took turns.

    Attributes:
        task: name of the task.
        model: as named in the options.
        rank: rank of LoRA.
        method: the method.
        baseline: the method that it took turns with.
        seconds: of a step of the method.
        baseline_seconds: of the baseline's step in the same round.
        versions: of the packages that matter.
    """

    task: str
    model: str
    rank: int
    method: str
    baseline: str
    seconds: tuple[float, ...]
    baseline_seconds: tuple[float, ...]
    versions: Mapping[str, str]

    @property
    def place(self) -> TimedPlace:
        """What the times are of."""
        return self.task, self.model, self.rank, self.method

    @property
    def ratio(self) -> Ratio:
        """Seconds per step relative to the baseline's, over the rounds."""
        return Ratio.of(self.seconds, self.baseline_seconds)


def read_step_times(folder: Path) -> list[StepTimes]:
    """Return what was timed in a comparison; nothing if no steps were.

    Raises:
        ConfigError: if the file is damaged.
    """
    path = folder / FILE
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        found: list[StepTimes] = list(build(tuple[StepTimes, ...], rows))
        _ = [each.ratio for each in found]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} must hold the times of steps, got something else ({error}); delete it, and the"
            " next 'hiddenkey compare' times them again"
        ) from error
    return found


def write_step_times(folder: Path, times: Iterable[StepTimes]) -> None:
    """Store the times in a comparison's folder."""
    rows = [dataclasses.asdict(each) for each in times]
    write_whole(folder / FILE, json.dumps(rows, indent=1) + "\n")


@dataclass(frozen=True)
class Cost:
    """What a configuration costs and gains.

    Attributes:
        configuration: the configuration.
        steps: optimiser steps, the median over runs.
        seconds_per_step: median over runs.
        time: seconds per step relative to the baseline's, over steps that took turns, or else over
            pairs of equal seed; ``None`` without a baseline.
        memory_mib: median peak memory: of the accelerator where there is one, else resident memory;
            ``None`` where the operating system does not tell it.
        memory: relative to the baseline's, over pairs of equal seed.
        device_memory: True if the memory is the accelerator's.
        lora_parameters: parameters of the adapter, 0 without one.
        gain: comparison of the main metric after the last step; ``None`` without a baseline.
    """

    configuration: RunConfiguration
    steps: float
    seconds_per_step: float
    time: Ratio | None
    memory_mib: float | None
    memory: Ratio | None
    device_memory: bool
    lora_parameters: int
    gain: PairedComparison | None


def tabulate_costs(
    runs: Sequence[ConfiguredRun],
    cells: Sequence[Cell],
    baseline: str,
    timed: Sequence[StepTimes] = (),
) -> tuple[Cost, ...]:
    """Return seconds per step and peak memory of each configuration, relative to its baseline's.

    Args:
        runs: the runs of one task.
        cells: what the configurations gained.
        baseline: method that the others are compared with.
        timed: steps that took turns; without them, times of runs are compared.
    """
    turns = {each.place: each.ratio for each in timed if each.baseline == baseline}
    groups: dict[RunConfiguration, list[ConfiguredRun]] = defaultdict(list)
    for run in runs:
        # results from elsewhere may not say how long they took
        if run.record.result is not None and run.record.result.seconds_per_step > 0:
            groups[run.configuration].append(run)
    results = {
        configuration: {
            run.seed: found for run in group if (found := run.record.result) is not None
        }
        for configuration, group in groups.items()
    }
    against = find_baselines(groups, baseline)
    gains = {cell.configuration: cell.comparison for cell in cells if cell.is_main("last")}
    costs = []
    for configuration, own in results.items():
        place = runs[0].task.name, configuration.model, configuration.rank, configuration.method
        base = configuration if configuration.method == baseline else against[configuration]
        others = {} if base is None else results[base]
        sample = next(iter(own.values()))
        costs.append(
            Cost(
                configuration=configuration,
                steps=median(result.steps for result in own.values()),
                seconds_per_step=median(result.seconds_per_step for result in own.values()),
                time=turns.get(place) or _ratio(own, others, lambda r: r.seconds_per_step),
                memory_mib=finite(median(map(memory, own.values()))),
                memory=_ratio(own, others, memory),
                device_memory=sample.peak_device_memory_mib is not None,
                lora_parameters=sample.lora_parameters,
                gain=gains.get(configuration),
            )
        )
    return tuple(costs)


def memory(result: Result) -> float:
    """Return the peak memory in MiB, of the accelerator where there is one; NaN if not known."""
    found = (result.peak_device_memory_mib, result.peak_memory_mib)
    return next((mib for mib in found if mib is not None), math.nan)


def _ratio(
    results: dict[int, Result], others: dict[int, Result], read: Callable[[Result], float]
) -> Ratio | None:
    """Ratio over common seeds: runs of one seed are trained near each other in time."""
    pairs = [(read(results[seed]), read(others[seed])) for seed in results.keys() & others.keys()]
    known = [(own, base) for own, base in pairs if own > 0 and base > 0]
    return Ratio.of(*zip(*known, strict=True)) if known else None
