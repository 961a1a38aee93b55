"""Choosing learning rate and dropout rate on held-out training examples, with equal effort.

Each choice trains once for every learning rate, dropout rate and seed. Two settings that are half a
point apart cannot be distinguished by a few runs each; so learning rate and dropout rate are chosen
by their marginal means, each of which rests on all runs that share the value.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
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
    tried = [{"learning_rate": each, **more} for each in learning_rates for more in _varied(choice)]
    runs = [task_options(setup, scale, choice.method, {**choice.settings, **own}) for own in tried]
    return [held_out(options, setup) for options in runs]


def chosen_options(
    configuration: Configuration, setup: TaskSetup, scale: Scale, setting: Setting
) -> TrainOptions:
    """Return the options of a configuration on a task with a chosen setting, but for the seed."""
    choice = scale.choices[configuration.chosen_as]
    learning_rate, rate = setting
    chosen = {
        "learning_rate": learning_rate,
        "rate": rate if _drops(configuration.method) else None,
    }
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
    setup: TaskSetup, choice: Choice, results: Iterable[tuple[Setting, Result | None]]
) -> Chosen | None:
    """Choose by marginal means; of equal ones the smaller value.

    Args:
        setup: the task.
        choice: what is chosen between.
        results: outcome of each run; ``None`` if it diverged.

    Returns:
        The choice; ``None`` if no run has a metric.
    """
    lasts = [
        (setting, None if result is None else result.metrics[result.main_metric].last)
        for setting, result in results
    ]
    if all(last is None for _, last in lasts):
        return None
    worth = [(setting, _DIVERGED if last is None else last) for setting, last in lasts]
    rates = _marginal(worth, lambda setting: setting[1])
    return Chosen(
        task=setup.name,
        choice=choice.name,
        learning_rate=_best(_marginal(worth, lambda setting: setting[0])),
        rate=None if None in rates else _best(rates),
        runs=len(worth),
        scores=_marginal(worth, lambda setting: setting),
    )


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
