"""Choosing learning rate, dropout rate and length on held-out training examples, equal effort.

Each choice trains once for every learning rate, length, dropout rate and seed. Two settings that
are half a point apart cannot be distinguished by a few runs each; so each of the three is chosen by
its marginal means, each of which rests on all runs that share the value.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any, Final

from hiddenkey.framework.catalogue import methods
from hiddenkey.lab.claims.findings import Chosen, Setting
from hiddenkey.lab.claims.plan import Choice, Configuration, Scale, TaskSetup
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.result import Result

_DIVERGED: Final = -1.0
"""Worth of a run whose metric is no number: what the worst correlation has."""


def trials(choice: Choice, setup: TaskSetup, scale: Scale) -> list[TrainOptions]:
    """Return the runs of a choice on a task, the same number for every choice of a scale."""
    learning_rates = setup.learning_rates.get(choice.name, choice.learning_rates)
    tried = [
        {"learning_rate": each, **length, **more}
        for each in learning_rates
        for length in _lengths(choice)
        for more in _varied(choice)
    ]
    runs = [task_options(setup, scale, choice.method, {**choice.settings, **own}) for own in tried]
    return [held_out(options, setup) for options in runs]


def chosen_options(
    configuration: Configuration, setup: TaskSetup, scale: Scale, setting: Setting
) -> TrainOptions:
    """Return the options of a configuration on a task with a chosen setting, but for the seed."""
    choice = scale.choices[configuration.chosen_as]
    chosen = {
        "learning_rate": setting.learning_rate,
        "rate": setting.rate if _drops(configuration.method) else None,
    }
    if setting.epochs is not None:
        chosen["epochs"] = setting.epochs
    given = {**choice.settings, **chosen, **configuration.settings}
    return task_options(setup, scale, configuration.method, given)


def task_options(
    setup: TaskSetup, scale: Scale, method: str, settings: Mapping[str, Any]
) -> TrainOptions:
    """Return a run's options: what all runs share, the task's own, and the given ones."""
    return TrainOptions(**{**scale.common, **setup.options, **settings, "method": method})


def held_out(options: TrainOptions, setup: TaskSetup) -> TrainOptions:
    """Judge a run on training examples beside those that it trains on.

    The run trains on as many examples as the runs that are compared, and is evaluated once.
    """
    once = dataclasses.replace(options, eval_size=None, evaluations=1)
    if options.train_size is None:
        return dataclasses.replace(once, holdout=setup.validation)
    size = options.train_size + round(setup.validation)
    return dataclasses.replace(once, train_size=size, holdout=setup.validation / size)


def choose(
    task: str, choice: Choice, results: Mapping[str, Iterable[tuple[Setting, Result | None]]]
) -> Chosen | None:
    """Choose by marginal means; of equal ones the smaller value.

    Args:
        task: the task.
        choice: what is chosen between.
        results: outcome of each run, by the task that it ran on; ``None`` if it diverged.

    Returns:
        The choice; ``None`` if no run has a metric.
    """
    found = {
        name: [(setting, _worth(choice, result)) for setting, result in own]
        for name, own in results.items()
    }
    if all(value is None for own in found.values() for _, value in own):
        return None
    worst = _DIVERGED if choice.by == "metric" else -math.inf
    by_task = [
        [(setting, worst if value is None else value) for setting, value in own]
        for own in found.values()
        if own
    ]
    worth = [each for own in by_task for each in own]
    compared = worth
    if len(by_task) > 1:
        compared = [each for own in by_task for each in _within_task(own)]
    return Chosen(
        task=task,
        choice=choice.name,
        setting=Setting(*(_best_part(compared, index) for index in range(len(Setting._fields)))),
        runs=len(worth),
        scores=_marginal(worth, lambda setting: setting),
    )


def _within_task(worth: Sequence[tuple[Setting, float]]) -> list[tuple[Setting, float]]:
    """Return what a task's runs are worth beside each other, where tasks decide together.

    A setting that misses a run on an easy task must not look bad for it.
    """
    finite = [value for _, value in worth if math.isfinite(value)]
    middle = mean(finite) if finite else 0.0
    return [(setting, value - middle) for setting, value in worth]


def setting_of(choice: Choice, options: Mapping[str, Any]) -> Setting:
    """Return what a run of a choice tries."""
    epochs = options["epochs"] if choice.epochs else None
    return Setting(options["learning_rate"], options["rate"], epochs)


def _worth(choice: Choice, result: Result | None) -> float | None:
    """Return what a run is judged by, larger for better; ``None`` if it is no number."""
    if result is None:
        return None
    if choice.by == "metric":
        return result.metrics[result.main_metric].last
    loss = result.eval_loss.last
    return None if loss is None else -loss


def _best_part(worth: Sequence[tuple[Setting, float]], index: int) -> Any:
    """Return the best of the values of one part of the setting; ``None`` if there is no choice."""
    means = _marginal(worth, lambda setting: setting[index])
    return None if None in means else _best(means)


def _lengths(choice: Choice) -> list[dict[str, Any]]:
    return [{"epochs": each} for each in choice.epochs] or [{}]


def _varied(choice: Choice) -> list[dict[str, Any]]:
    """Dropout rates and seeds; a method without a rate gets seeds instead, as many runs in all."""
    if _drops(choice.method):
        return [{"rate": rate, "seed": seed} for rate in choice.rates for seed in choice.seeds]
    step = max(choice.seeds) - min(choice.seeds) + 1
    return [
        {"seed": seed + step * turn} for turn in range(len(choice.rates)) for seed in choice.seeds
    ]


def _drops(method: str) -> bool:
    return bool(methods()[method].config.drops)


def _marginal(
    worth: Iterable[tuple[Setting, float]], part: Callable[[Setting], Any]
) -> dict[Any, float]:
    found: dict[Any, list[float]] = defaultdict(list)
    for setting, value in worth:
        found[part(setting)].append(value)
    return {key: mean(values) for key, values in found.items()}


def _best(means: Mapping[float, float]) -> float:
    return max(means, key=lambda value: (means[value], -value))
