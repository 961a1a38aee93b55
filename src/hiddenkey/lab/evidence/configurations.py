"""From records to configurations: what distinguishes the runs of a comparison."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hiddenkey.errors import ConfigError, suggestion
from hiddenkey.framework.catalogue import methods
from hiddenkey.lab.evidence.axes import Budget, RunConfiguration, Task
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.plans.attached import DEFAULTS
from hiddenkey.lab.run.options import TrainOptions

DATA_OPTIONS: Final = (
    "data",
    "train_file",
    "eval_file",
    "text_columns",
    "label_column",
    "label_names",
    "regression",
    "train_size",
    "eval_size",
    "holdout",
    "validation",
    "data_seed",
    "resample",
)
"""Options that choose examples: they belong to the task, not to the configuration."""

_OWN: Final = ("method", "model", "rank")
_WEIGHT: Final = "consistency_weight"
NO_SETTINGS: Final = (
    "task", "seed", "report_to", "log_every", "metric", "metric_file", "lower_is_better",
    "source",
    *DATA_OPTIONS,
)  # fmt: skip
"""Options that are no setting of a configuration: its data, its seed, what is logged and read."""

_ALWAYS: Final = ("rate", _WEIGHT, "learning_rate")
"""Options that a label names even at their defaults."""

_CUT_BY_TIME: Final = ("max_steps", "epochs")


@dataclass(frozen=True)
class ConfiguredRun:
    """A record with its place in the comparison."""

    record: Record
    configuration: RunConfiguration
    task: Task

    @property
    def seed(self) -> int:
        """The training seed."""
        return int(self.record.options.get("seed", 0))


def explicit(options: Mapping[str, Any]) -> dict[str, Any]:
    """Write out the method's own rate and weight, so that equal settings are equal.

    A command's run names of its attached method only what is not the default: the rest is added.

    Returns:
        the options; ``rate`` is a number, ``None`` if nothing drops, or a text if the positions of
        the method have different rates.
    """
    if options.get("command"):
        options = {**DEFAULTS, **options}
    entry = methods().get(str(options.get("method")))
    if entry is None or "source" in options:  # of a table, whose names need not be ours
        return dict(options)
    given = options.get(_WEIGHT)
    own = entry.config.consistency.weight if entry.config.consistency else None
    by_position = options.get("rates") or {}
    common = options.get("rate")
    rates = {
        drop.position: by_position.get(drop.position, drop.rate if common is None else common)
        for drop in entry.config.drops
    }
    rate = next(iter(rates.values()), None)
    shown = ", ".join(f"{position} {value:g}" for position, value in rates.items())
    written = {"rate": rate if len(set(rates.values())) < 2 else shown}
    return {**options, **written, _WEIGHT: own if given is None else given}


def find_tasks(records: Sequence[Record]) -> dict[str, Task]:
    """Return the task of each record, by the record's id; equal examples make equal tasks.

    A failed run has no fingerprint: it belongs to the task whose runs have its data options.
    """
    keys = {
        record.id: (str(record.options.get("task")), found.main_metric, found.data_fingerprint)
        for record in records
        if (found := record.result) is not None
    }
    samples = {keys[record.id]: record for record in records if record.id in keys}
    labels = _task_labels(samples)
    by_options = {_data_key(record): keys[record.id] for record in records if record.id in keys}
    found_tasks = {}
    for record in records:
        name = str(record.options.get("task"))
        key = keys.get(record.id) or by_options.get(_data_key(record))
        found_tasks[record.id] = Task(labels[key], *key) if key else Task(name, name, "", "")
    return found_tasks


def find_runs(records: Sequence[Record], budget: Budget, baseline: str) -> list[ConfiguredRun]:
    """Give each record its place, ordered by task, configuration (baseline first) and seed.

    Args:
        records: those of one scope.
        budget: of the scope; time-matched, the number of steps does not make a configuration.
        baseline: name of the baseline's method.
    """
    tasks = find_tasks(records)
    options = {record.id: explicit(record.options) for record in records}
    cut = _CUT_BY_TIME if budget == "time" else ()
    names = _varied(records, options, tasks, cut)
    keys = {
        identity: tuple(frozen(own.get(name)) for name in (*_OWN, *names))
        for identity, own in options.items()
    }
    configurations = _configurations(keys, options, names)
    runs = [
        ConfiguredRun(record, configurations[keys[record.id]], tasks[record.id])
        for record in records
    ]
    return sorted(
        runs, key=lambda r: (r.task.label, *configuration_order(r.configuration, baseline), r.seed)
    )


def require_method(setting: str, name: str, records: Sequence[Record]) -> None:
    """Refuse a method that neither the records nor the library know.

    Args:
        setting: what names the method.
        name: the method.
        records: the runs.

    Raises:
        ConfigError: if it is unknown.
    """
    used = sorted({str(record.options.get("method")) for record in records})
    known = [*used, *methods()]
    if name not in known:
        hint = suggestion(name, known) or "; choose one"
        raise ConfigError(
            f"{setting} must be a method of the runs ({', '.join(used)}), got {name!r}{hint}"
        )


def configuration_order(configuration: RunConfiguration, baseline: str) -> tuple[Any, ...]:
    """Sort by baseline first, then as the catalogue lists methods, then by number."""
    order = list(methods())
    known = order.index(configuration.method) if configuration.method in order else len(order)
    numbers = (
        configuration.rank,
        -1.0 if configuration.rate is None else configuration.rate,
        configuration.weight or 0.0,
    )
    return (
        configuration.method != baseline,
        known,
        configuration.method,
        configuration.model,
        *numbers,
        configuration.label,
    )


def newest(runs: Iterable[ConfiguredRun]) -> tuple[list[ConfiguredRun], set[str]]:
    """Keep one run of each configuration, task and seed: the newest finished, else failed one.

    Returns:
        the kept runs and the ids of the others.
    """
    every = list(runs)
    ordered = sorted(every, key=lambda run: (run.record.result is not None, run.record.ended))
    last = {(run.configuration, run.task, run.seed): run for run in ordered}.values()
    kept = {run.record.id for run in last}
    return (
        [run for run in every if run.record.id in kept],
        {run.record.id for run in every} - kept,
    )


def differing_options(records: Iterable[Record]) -> tuple[dict[str, Any], list[str]]:
    """Return the options that all records share, and the names of those that differ."""
    options = [record.options for record in records]
    names = list(dict.fromkeys(name for own in options for name in own))
    same = [
        name
        for name in names
        if all(name in own for own in options) and len({frozen(own[name]) for own in options}) == 1
    ]
    return {name: options[-1][name] for name in same}, [n for n in names if n not in same]


_TaskKey = tuple[str, str, str]
"""A task's name, its main metric and the fingerprint of its examples."""


def _data_key(record: Record) -> str:
    return frozen([record.options.get(name) for name in ("task", *DATA_OPTIONS)])


def _task_labels(samples: Mapping[_TaskKey, Record]) -> dict[_TaskKey, str]:
    """Name tasks; where one name has several data sets, say what distinguishes them."""
    labels = {}
    for name in {key[0] for key in samples}:
        same = {key: sample for key, sample in samples.items() if key[0] == name}
        told = _telling(list(same.values())) if len(same) > 1 else [[]]
        for key, parts in zip(same, told, strict=True):
            labels[key] = f"{name} ({', '.join(parts)})" if parts else name
    return labels


def _telling(samples: Sequence[Record]) -> list[list[str]]:
    """The fewest data options, in their order, that distinguish data sets; else the fingerprint."""
    _, differing = differing_options(samples)
    told: list[list[str]] = [[] for _ in samples]
    for option in (option for option in DATA_OPTIONS if option in differing):
        for parts, sample in zip(told, samples, strict=True):
            parts.append(f"{option} {sample.options.get(option)}")
        if len({*map(tuple, told)}) == len(samples):
            return told
    fingerprints = [sample.result.data_fingerprint if sample.result else "" for sample in samples]
    return [[*parts, f"data {own[:8]}"] for parts, own in zip(told, fingerprints, strict=True)]


def _varied(
    records: Sequence[Record],
    options: Mapping[str, Mapping[str, Any]],
    tasks: Mapping[str, Task],
    cut: Sequence[str],
) -> list[str]:
    """Options with several values within one task, method, model and rank.

    A value that the task and the method decide, such as one that a search chose, does not.
    """
    left_out = {*NO_SETTINGS, *_OWN, "rates", *cut}
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        own = options[record.id]
        place = (tasks[record.id], *(own.get(name) for name in _OWN))
        groups[place].append(own)
    found: set[str] = set()
    for first, *others in groups.values():
        for item in others:
            names = {*first, *item} - left_out - found
            found |= {name for name in names if first.get(name) != item.get(name)}
    return sorted(found, key=lambda name: (name != "rate", name != _WEIGHT, name))


_Key = tuple[str, ...]
"""Method, model, rank and the varied options, each as text that is equal for equal values."""


def _configurations(
    keys: Mapping[str, _Key], options: Mapping[str, Mapping[str, Any]], names: Sequence[str]
) -> dict[_Key, RunConfiguration]:
    """Build the configurations; a label names what differs, and of that what is not the default."""
    defaults = {name: frozen(value) for name, value in TrainOptions().recorded().items()}
    samples: dict[_Key, list[Mapping[str, Any]]] = defaultdict(list)
    for identity, key in keys.items():
        samples[key].append(options[identity])
    models = _model_names({str(own[0].get("model")) for own in samples.values()})
    several_ranks = len({key[2] for key in samples}) > 1
    seen = {(key[0], *setting) for key in samples for setting in zip(names, key[3:], strict=True)}
    values = Counter((method, name) for method, name, _ in seen)
    configurations = {}
    for key, own in samples.items():
        method, model, rank = (own[0].get(name) for name in _OWN)
        told = [
            (name, _shown(value))
            for name, value in zip(names, key[3:], strict=True)
            if values[key[0], name] > 1 and (name in _ALWAYS or value != defaults.get(name))
        ]
        family = [str(method)]
        family += [models[str(model)]] if len(models) > 1 else []
        family += [f"rank {rank or 0}"] if several_ranks else []
        configurations[key] = RunConfiguration(
            label=", ".join([*family, *(f"{n.replace('_', ' ')} {v}" for n, v in told)]),
            family=", ".join(family),
            method=str(method),
            model=str(model),
            rank=int(rank or 0),
            rate=_common(own, "rate"),
            weight=_common(own, _WEIGHT),
            others=tuple((n, v) for n, v in told if n not in ("rate", _WEIGHT)),
        )
    return configurations


def _common(options: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The number that all of these runs have; a search may have chosen one for each task."""
    values = {item.get(name) for item in options}
    value = values.pop() if len(values) == 1 else None
    return float(value) if isinstance(value, int | float) else None


def _model_names(models: set[str]) -> dict[str, str]:
    """Shorten folders and hub names to their last part, where that tells them apart."""
    short = {model: model.rstrip("/").rpartition("/")[2] or model for model in models}
    return short if len(set(short.values())) == len(models) else {model: model for model in models}


def frozen(value: Any) -> str:
    """Return a value as text that is equal for equal values."""
    return json.dumps(value, sort_keys=True)


def _shown(frozen: str) -> str:
    value = json.loads(frozen)
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else frozen
