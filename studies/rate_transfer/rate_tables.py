"""From records to a table of one method: tasks, dropout rates and seeds that are all complete."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final, TypeVar

from hiddenkey.errors import ConfigError
from hiddenkey.lab.evidence.axes import Measure
from hiddenkey.lab.evidence.cells import differing, nearest, settings_of, value_of
from hiddenkey.lab.evidence.configurations import ConfiguredRun, explicit, require_method
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.present.words import count, listing
from study_records import arrange

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
    """A method's runs at several rates on one task that share all other settings.

    Attributes:
        runs: by rate.
        points: main metric in points, larger is better, by rate and seed.
        plain: that of the baseline's runs with the most similar settings, by seed.
    """

    runs: Mapping[float, Sequence[ConfiguredRun]]
    points: Mapping[float, Mapping[int, float]]
    plain: Mapping[int, float]

    @property
    def example(self) -> ConfiguredRun:
        return next(iter(self.runs.values()))[0]


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
    plain = [run for run in runs if run.configuration.method == baseline]
    found = _sweeps([run for run in runs if run.configuration.method == method], plain)
    rates = _common([sweeps[0].points.keys() for sweeps in found.values()])
    seeds = _common([s.points[r].keys() for each in found.values() for s in each for r in rates])
    if len(found) < 2 or len(rates) < 2 or len(seeds) < 2:
        raise ConfigError(_too_little(method, found))
    return RateTable(
        method=method,
        baseline=baseline,
        tasks=tuple(found),
        metrics=tuple(sweeps[0].example.task.metric for sweeps in found.values()),
        rates=rates,
        seeds=seeds,
        values=tuple(
            tuple(_means([s.points[rate] for s in sweeps], seeds) for rate in rates)
            for sweeps in found.values()
        ),
        plain=tuple(
            _means([s.plain for s in sweeps], seeds) if _has_plain(sweeps, seeds) else None
            for sweeps in found.values()
        ),
        notes=tuple(
            note for task, sweeps in found.items() for note in _notes(task, sweeps, rates, seeds)
        ),
    )


def _sweeps(
    runs: Sequence[ConfiguredRun], plain: Sequence[ConfiguredRun]
) -> dict[str, list[_Sweep]]:
    """Return, for each task and model, the sweeps over most rates; at least two."""
    several = len({run.configuration.model for run in runs}) > 1
    groups: dict[str, dict[str, dict[float, list[ConfiguredRun]]]] = defaultdict(dict)
    for run in runs:
        rate = explicit(run.record.options)["rate"]
        if isinstance(rate, int | float):
            label = f"{run.task.label}, {run.configuration.model}" if several else run.task.label
            settings = json.dumps([settings_of(run), run.configuration.weight], sort_keys=True)
            by_rate = groups[label].setdefault(settings, {})
            by_rate.setdefault(float(rate), []).append(run)
    found = {}
    for label, by_settings in groups.items():
        widest = max(by_settings.values(), key=len)
        if len(widest) > 1:
            alike = [by_rate for by_rate in by_settings.values() if by_rate.keys() == widest.keys()]
            found[label] = [_sweep(by_rate, plain) for by_rate in alike]
    return found


def _sweep(runs: Mapping[float, Sequence[ConfiguredRun]], plain: Sequence[ConfiguredRun]) -> _Sweep:
    near = nearest(next(iter(runs.values()))[0], plain)
    alike = [
        run
        for run in plain
        if near and (run.configuration, run.task) == (near.configuration, near.task)
    ]
    return _Sweep(runs, {rate: _points(own) for rate, own in runs.items()}, _points(alike))


def _points(runs: Sequence[ConfiguredRun]) -> dict[int, float]:
    """Points by seed, of the runs whose metric is a number."""
    found = {}
    for run in runs:
        measure = Measure(run.task.metric, "last", main=True)
        if (value := value_of(run, measure)) is not None:
            found[run.seed] = POINTS * value if measure.larger_is_better else -POINTS * value
    return found


def _means(cells: Sequence[Mapping[int, float]], seeds: Sequence[int]) -> tuple[float, ...]:
    return tuple(fmean(cell[seed] for cell in cells) for seed in seeds)


def _has_plain(sweeps: Sequence[_Sweep], seeds: Sequence[int]) -> bool:
    return all(sweep.plain.keys() >= {*seeds} for sweep in sweeps)


def _notes(
    task: str, sweeps: Sequence[_Sweep], rates: Sequence[float], seeds: Sequence[int]
) -> Iterator[str]:
    """Say what a task's values leave out or average."""
    if len(sweeps) > 1:
        first, *others = (settings_of(sweep.example) for sweep in sweeps)
        names = sorted({name for other in others for name in differing(first, other)})
        varied = listing([name.replace("_", " ") for name in names])
        yield f"{task}: each value is the mean over {len(sweeps)} configurations of {varied}."
    unused = sorted({*sweeps[0].points} - {*rates})
    if unused:
        shown = listing([f"{rate:g}" for rate in unused], limit=9)
        yield f"{task}: left out, since not on every task: rate {shown}."
    every = {run.seed for sweep in sweeps for runs in sweep.runs.values() for run in runs}
    if lost := len(every - {*seeds}):
        yield f"{task}: {count(lost, 'seed')} left out, since not with every rate on every task."
    if not _has_plain(sweeps, seeds):
        yield f"{task}: no baseline with these seeds, model and rank."


def _common(sets: Sequence[Collection[_Number]]) -> tuple[_Number, ...]:
    return tuple(sorted(set(sets[0]).intersection(*sets))) if sets else ()


def _too_little(method: str, found: Mapping[str, Sequence[_Sweep]]) -> str:
    had = []
    for task, sweeps in found.items():
        rates = sorted(sweeps[0].points)
        seeds = _common([sweep.points[rate].keys() for sweep in sweeps for rate in rates])
        shown = listing([f"{rate:g}" for rate in rates], limit=9)
        had.append(f"{task} at {shown} (complete: {count(len(seeds), 'seed')})")
    return (
        f"{method} must have runs at two common rates, with the same two seeds, on at least two"
        f" tasks, got {'; '.join(had) or 'no task with two rates'}; add rates, seeds and tasks to"
        " the plan, or name another --method"
    )
