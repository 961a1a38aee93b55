"""What a reader must know of the runs behind a comparison, in sentences."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from statistics import fmean
from typing import Any, Final

from hiddenkey.lab.evidence.axes import Budget, RunConfiguration
from hiddenkey.lab.evidence.breakdowns import find_breakdowns
from hiddenkey.lab.evidence.cells import Cell, finite
from hiddenkey.lab.evidence.configurations import NO_SETTINGS, ConfiguredRun, explicit
from hiddenkey.lab.present.words import count, listing, number, signed

_OF_METHODS: Final = ("method", "rate", "consistency_")
"""Beginnings of the options in which a method may differ from the baseline without a word."""

_MACHINE: Final = ("device", "platform", "python", "torch", "transformers", "peft", "hiddenkey")


def task_notes(
    runs: Sequence[ConfiguredRun], cells: Sequence[Cell], baseline: str, budget: Budget
) -> tuple[str, ...]:
    """Say where the runs of one task are not alike in more than the method, and which broke."""
    return (
        *_unnamed_options(runs),
        *_unequal_seeds(cells, baseline),
        *_unequal_steps(runs, baseline, budget),
        *_other_options(runs, baseline, budget),
        *_unlike_starts(runs, baseline),
        *_environments(runs),
        *_broken_runs(runs, cells),
    )


def _unnamed_options(runs: Sequence[ConfiguredRun]) -> list[str]:
    """The rates and weights that labels leave out, since each method has one on this task."""
    told: dict[str, str] = {}
    for run in runs:
        options = explicit(run.record.options)
        parts = [
            f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"
            for name, words in (("rate", "rate"), ("consistency_weight", "consistency weight"))
            if (value := options.get(name)) is not None and words not in run.configuration.label
        ]
        if parts:
            told[run.configuration.family] = " and ".join(parts)
    return (
        [f"Options: {'; '.join(f'{label}: {what}' for label, what in told.items())}."]
        if told
        else []
    )


def _unequal_seeds(cells: Sequence[Cell], baseline: str) -> list[str]:
    seeds: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for cell in cells:
        if cell.is_main("last"):
            seeds[tuple(seed for seed, _ in cell.values)].append(cell.configuration.label)
    if len(seeds) < 2:
        return []
    told = [f"{_seeds(key)}: {listing(labels)}" for key, labels in seeds.items()]
    return [
        f"Not all configurations have the same seeds ({'; '.join(told)}). Means are over a"
        f" configuration's own seeds; differences to {baseline} are over the seeds in common."
    ]


def _seeds(seeds: Sequence[int]) -> str:
    if not seeds:
        return "no seed"
    noun = "seed" if len(seeds) == 1 else "seeds"
    return f"{noun} {listing([str(seed) for seed in seeds], limit=12)}"


def matching(runs: Sequence[ConfiguredRun], baseline: str, budget: Budget) -> str:
    """Say in what runs of one task are alike, so that a reader knows what a difference is of."""
    if budget == "time":
        return "time-matched"
    if any(run.record.result is not None and not _steps(run) for run in runs):
        return "steps not known"
    return "steps differ" if _unequal_steps(runs, baseline, budget) else "step-matched"


def _unequal_steps(runs: Sequence[ConfiguredRun], baseline: str, budget: Budget) -> list[str]:
    if budget == "time":
        return []
    known = [run for run in runs if run.record.result is not None]
    base: dict[int, set[int]] = defaultdict(set)
    for run in known:
        if run.configuration.method == baseline:
            base[run.seed].add(_steps(run))
    other: dict[str, list[int]] = defaultdict(list)
    for run in known:
        if run.seed in base and _steps(run) not in base[run.seed]:
            other[run.configuration.label].append(run.seed)
    if not other:
        return []
    pairs = {
        label: {run.seed for run in known if run.configuration.label == label} & base.keys()
        for label in other
    }
    named = [
        label if len(seeds) == len(pairs[label]) else f"{label} ({_seeds(sorted(seeds))})"
        for label, seeds in other.items()
    ]
    return [
        f"Not the same number of steps as {baseline}: {listing(named)}. Differences are of method"
        " and budget together."
    ]


def _steps(run: ConfiguredRun) -> int:
    assert run.record.result is not None
    return run.record.result.steps


def _other_options(runs: Sequence[ConfiguredRun], baseline: str, budget: Budget) -> list[str]:
    """Options of a method that the baseline does not have, beyond what is compared."""
    expected = {*NO_SETTINGS, "model", "rank"}
    expected |= {"max_steps", "epochs"} if budget == "time" else set()
    expected |= {name for run in runs for name, _ in run.configuration.others}
    own: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for run in runs:
        for name, value in explicit(run.record.options).items():
            own[run.configuration.method][name].add(json.dumps(value, sort_keys=True))
    base = own.get(baseline)
    if base is None:
        return []
    sentences = []
    for method, options in own.items():
        differing = [
            f"{name} {_values(values)} (not {_values(base[name])})"
            for name, values in options.items()
            if not (name in expected or name.startswith(_OF_METHODS))
            and values != base.get(name, values)
        ]
        if differing:
            sentences.append(
                f"{method} differs from {baseline} in more than dropout: {listing(differing)}."
            )
    return sentences


_SEEN: Final = {
    "weights": "did not start from the same weights as",
    "batches": "did not see the same batches as",
}
"""What is seen of a command's runs that should be equal for equal seeds."""


def _unlike_starts(runs: Sequence[ConfiguredRun], baseline: str) -> list[str]:
    """Seeds at which a command trained two methods from other weights or on other batches."""
    sentences = []
    for name, words in _SEEN.items():
        base = {run.seed: _seen(run, name) for run in runs if run.configuration.method == baseline}
        unlike: dict[str, list[str]] = defaultdict(list)
        for run in runs:
            own, other = _seen(run, name), base.get(run.seed)
            if own and other and own != other:
                unlike[run.configuration.label].append(str(run.seed))
        sentences += [
            f"{label} {words} {baseline} at seed {listing(seeds, limit=12)}: pairs of these seeds"
            " differ in more than the method, so the intervals are wider than they need be. Let the"
            " command set its seed before it makes the model and the data loader."
            for label, seeds in unlike.items()
        ]
    return sentences


def _seen(run: ConfiguredRun, name: str) -> str:
    return str(run.record.observed.get(name) or "")


def _values(frozen: set[str]) -> str:
    return listing([value.strip('"') for value in sorted(frozen)])


def _environments(runs: Sequence[ConfiguredRun]) -> list[str]:
    seen: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        environment: Mapping[str, Any] = run.record.environment
        for name in _MACHINE:
            if name in environment:
                seen[name].add(str(environment[name]))
    differing = [f"{name} ({listing(sorted(v))})" for name, v in seen.items() if len(v) > 1]
    if not differing:
        return []
    return [
        f"The runs come from different environments: {listing(differing)}. Times and memory may not"
        " be comparable."
    ]


def _broken_runs(runs: Sequence[ConfiguredRun], cells: Sequence[Cell]) -> list[str]:
    """Runs that broke down, and what differences would be without their pairs."""
    learnt: dict[RunConfiguration, dict[int, float]] = defaultdict(dict)
    for run in runs:
        result = run.record.result
        value = None if result is None else finite(result.train_sample.get(result.main_metric))
        if value is not None:
            learnt[run.configuration][run.seed] = value
    broken = {own: found for own, values in learnt.items() if (found := find_breakdowns(values))}
    if not broken:
        return []
    named = [
        f"{own.label} at seed {each.seed} ({number(each.value)}, the median of its seeds"
        f" is {number(each.median)})"
        for own, found in broken.items()
        for each in found
    ]
    seeds = {own.label: {each.seed for each in found} for own, found in broken.items()}
    return [
        f"Broke down, by the main metric on their own training examples: {listing(named, 12)}."
        f" They count like any other.{_without_pairs(cells, seeds)}"
    ]


def _without_pairs(cells: Sequence[Cell], broken: Mapping[str, Set[int]]) -> str:
    """Say what differences would be without the pairs of some seeds, by configuration."""
    values = {cell.configuration.label: dict(cell.values) for cell in cells if cell.is_main("last")}
    parts = []
    for cell in cells:
        if not cell.is_main("last") or cell.against is None:
            continue
        ours, theirs = values[cell.configuration.label], values[cell.against]
        left_out = broken.get(cell.configuration.label, set()) | broken.get(cell.against, set())
        kept = (ours.keys() & theirs.keys()) - left_out
        if kept and left_out:
            mean = fmean(ours[seed] - theirs[seed] for seed in kept)
            parts.append(f"{cell.configuration.label} {signed(mean)} in {count(len(kept), 'pair')}")
    return f" Without their pairs the differences are: {listing(parts, 12)}." if parts else ""
