"""From records to a table of one method: tasks, dropout rates and seeds that are all complete."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final, TypeVar

from hiddenkey.errors import ConfigError
from hiddenkey.lab.analyses.sources import arrange
from hiddenkey.lab.evidence.arms import Run, explicit, require_method
from hiddenkey.lab.evidence.axes import Measure
from hiddenkey.lab.evidence.cells import value_of
from hiddenkey.lab.evidence.pairing import differing, nearest, settings_of
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.present.words import count, listing

POINTS: Final = 100
"""Points in one unit of a metric."""

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class RateTable:
    """What a method reaches at each rate.

    Attributes:
        method: the method.
        baseline: the method it is compared with.
        tasks: labels, with the model where there are several.
        metrics: main metric of each task.
        rates: dropout rates, ascending.
        seeds: training seeds.
        values: main metric after the last step in points, larger is better, by task, rate and
            seed, in the order of ``tasks``, ``rates`` and ``seeds``.
        plain: the baseline's values by task and seed; ``None`` for a task without the baseline's
            runs of these seeds.
        notes: what was left out or averaged, as sentences.
    """

    method: str
    baseline: str
    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    values: tuple[tuple[tuple[float, ...], ...], ...]
    plain: tuple[tuple[float, ...] | None, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Sweep:
    """A method's runs at several rates on one task that share all other settings."""

    runs: Mapping[float, Mapping[int, Run]]

    @property
    def example(self) -> Run:
        return next(iter(next(iter(self.runs.values())).values()))


def tabulate_rates(
    records: Sequence[Record],
    method: str = "hiddenkey-minus",
    baseline: str = "lora",
    chosen: Sequence[str] = (),
) -> RateTable:
    """Find the rates and seeds that every task has.

    On each task the settings with most rates count. Where several have as many, as when learning
    rates were tried with every rate, a rate's value is the mean over them.

    Args:
        records: finished runs.
        method: the method whose rate is asked for.
        baseline: method that it is compared with.
        chosen: names of tasks; none: all that have at least two rates.

    Raises:
        ConfigError: if a method is unknown, or fewer than two tasks share two rates and two seeds.
    """
    require_method("method", method, records)
    runs = arrange(records, baseline)
    if chosen:
        runs = [run for run in runs if run.task.name in chosen]
    plain = [run for run in runs if run.arm.method == baseline]
    by_task = _sweeps([run for run in runs if run.arm.method == method])
    found = {label: _Task(label, sweeps, plain) for label, sweeps in by_task.items()}
    rates = _common([task.rates for task in found.values()])
    seeds = _common([task.seeds(rates) for task in found.values()])
    if len(found) < 2 or len(rates) < 2 or len(seeds) < 2:
        raise ConfigError(_too_little(method, found))
    return RateTable(
        method=method,
        baseline=baseline,
        tasks=tuple(found),
        metrics=tuple(task.metric for task in found.values()),
        rates=rates,
        seeds=seeds,
        values=tuple(task.values(rates, seeds) for task in found.values()),
        plain=tuple(task.plain(seeds) for task in found.values()),
        notes=tuple(note for task in found.values() for note in task.notes(rates, seeds)),
    )


class _Task:
    """The sweeps of one task."""

    def __init__(self, label: str, sweeps: Sequence[_Sweep], plain: Sequence[Run]) -> None:
        self.label = label
        self._sweeps = sweeps
        example = sweeps[0].example
        self.metric = example.task.metric
        self._measure = Measure(self.metric, "last", main=True)
        self._plain = [_of_arm(nearest(sweep.example, plain), plain) for sweep in sweeps]

    @property
    def rates(self) -> set[float]:
        return set(self._sweeps[0].runs)

    def seeds(self, rates: Sequence[float]) -> set[int]:
        """Seeds with a finite value at these rates in all sweeps."""
        cells = [sweep.runs[rate] for sweep in self._sweeps for rate in rates]
        return set(_common([{s for s, run in c.items() if self._finite(run)} for c in cells]))

    def values(self, rates: Sequence[float], seeds: Sequence[int]) -> tuple[tuple[float, ...], ...]:
        return tuple(
            tuple(
                fmean(self._points(sweep.runs[rate][seed]) for sweep in self._sweeps)
                for seed in seeds
            )
            for rate in rates
        )

    def plain(self, seeds: Sequence[int]) -> tuple[float, ...] | None:
        by_seed = [{run.seed: run for run in runs if self._finite(run)} for runs in self._plain]
        if not all(set(seeds) <= set(runs) for runs in by_seed):
            return None
        return tuple(fmean(self._points(runs[seed]) for runs in by_seed) for seed in seeds)

    def notes(self, rates: Sequence[float], seeds: Sequence[int]) -> list[str]:
        notes = []
        if len(self._sweeps) > 1:
            first, *others = (settings_of(sweep.example) for sweep in self._sweeps)
            names = sorted({name for other in others for name in differing(first, other)})
            notes.append(
                f"{self.label}: each value is the mean over {len(self._sweeps)} configurations of"
                f" {listing([name.replace('_', ' ') for name in names])}."
            )
        unused = sorted(self.rates - set(rates))
        if unused:
            shown = listing([f"{rate:g}" for rate in unused], limit=9)
            notes.append(f"{self.label}: left out, since not on every task: rate {shown}.")
        known = {seed for sweep in self._sweeps for cell in sweep.runs.values() for seed in cell}
        lost = len(known - set(seeds))
        if lost:
            notes.append(
                f"{self.label}: {count(lost, 'seed')} left out, since not with every rate on every"
                " task."
            )
        if self.plain(seeds) is None:
            notes.append(f"{self.label}: no baseline with these seeds, model and rank.")
        return notes

    def _finite(self, run: Run) -> bool:
        return value_of(run, self._measure) is not None

    def _points(self, run: Run) -> float:
        value = value_of(run, self._measure)
        if value is None:
            raise ValueError("a run without a value has no points")
        return POINTS * value if self._measure.larger_is_better else -POINTS * value


def _sweeps(runs: Sequence[Run]) -> dict[str, list[_Sweep]]:
    """Return, for each task and model, the sweeps over most rates; at least two."""
    several = len({run.arm.model for run in runs}) > 1
    groups: dict[str, dict[str, dict[float, dict[int, Run]]]] = defaultdict(dict)
    for run in runs:
        rate = explicit(run.record.options)["rate"]
        if not isinstance(rate, int | float):
            continue
        label = f"{run.task.label}, {run.arm.model}" if several else run.task.label
        settings = json.dumps([settings_of(run), run.arm.weight], sort_keys=True)
        cells = groups[label].setdefault(settings, {})
        cells.setdefault(float(rate), {})[run.seed] = run
    found = {}
    for label, by_settings in groups.items():
        most = max(map(len, by_settings.values()))
        widest = [cells for cells in by_settings.values() if len(cells) == most]
        alike = [cells for cells in widest if cells.keys() == widest[0].keys()]
        if most > 1:
            found[label] = [_Sweep(cells) for cells in alike]
    return found


def _of_arm(example: Run | None, runs: Sequence[Run]) -> list[Run]:
    """Return all seeds of a run's arm on its task."""
    if example is None:
        return []
    return [run for run in runs if run.arm == example.arm and run.task == example.task]


def _common(sets: Sequence[set[_Number]]) -> tuple[_Number, ...]:
    return tuple(sorted(set.intersection(*sets))) if sets else ()


def _too_little(method: str, found: Mapping[str, _Task]) -> str:
    had = [
        f"{label} at {listing([f'{rate:g}' for rate in sorted(task.rates)], limit=9)} (complete:"
        f" {count(len(task.seeds(sorted(task.rates))), 'seed')})"
        for label, task in found.items()
    ]
    return (
        f"{method} must have runs at two common rates, with the same two seeds, on at least two"
        f" tasks, got {'; '.join(had) or 'no task with two rates'}; add rates, seeds and tasks to"
        " the plan, or name another --method"
    )
