"""Choosing learning rate and dropout rate on held-out training examples, with equal effort.

Each choice trains once for every learning rate, dropout rate and seed. Two settings that are half a
point apart cannot be told by a few runs each; so learning rate and dropout rate are chosen by their
marginal means, each of which rests on all runs that share the value.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any, Final

from hiddenkey.framework.catalogue import methods
from hiddenkey.lab.claims.findings import Chosen
from hiddenkey.lab.claims.plan import Choice, Scale, TaskSetup
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.result import Result

Setting = tuple[float, float | None]
"""A learning rate and a dropout rate."""

_DIVERGED: Final = -1.0
"""Worth of a run whose metric is no number: what the worst correlation has."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a choice."""

    setting: Setting
    options: TrainOptions


def trials(choice: Choice, setup: TaskSetup, scale: Scale) -> list[Trial]:
    """Return the runs of a choice on a task, the same number for every choice of a scale."""
    found = []
    for learning_rate in setup.learning_rates.get(choice.name, choice.learning_rates):
        for rate, seed in _rates_and_seeds(choice):
            given = {**choice.settings, "learning_rate": learning_rate, "seed": seed}
            options = task_options(setup, scale, choice.method, given | rate_setting(choice, rate))
            found.append(Trial((learning_rate, rate), held_out(options, setup)))
    return found


def _rates_and_seeds(choice: Choice) -> list[tuple[float | None, int]]:
    if methods()[choice.method].config.drops:
        return [(rate, seed) for rate in choice.rates for seed in choice.seeds]
    step = max(choice.seeds) - min(choice.seeds) + 1
    return [
        (None, seed + step * turn) for turn in range(len(choice.rates)) for seed in choice.seeds
    ]


def rate_setting(choice: Choice, rate: float | None) -> dict[str, Any]:
    """The dropout rate as a setting of a run; nothing for a method without one."""
    return {} if rate is None else {"rate": rate}


def task_options(
    setup: TaskSetup, scale: Scale, method: str, settings: Mapping[str, Any]
) -> TrainOptions:
    """Return a run's options: what all runs share, the task's own, and the given ones."""
    return TrainOptions(**{**scale.common, **setup.options, **settings, "method": method})


def held_out(options: TrainOptions, setup: TaskSetup) -> TrainOptions:
    """Judge a run on training examples beside those that it trains on.

    The run trains on as many examples as the runs that are compared, and is looked at once.
    """
    once = dataclasses.replace(options, eval_size=None, evaluations=1)
    if options.train_size is None:
        return dataclasses.replace(once, holdout=setup.validation)
    size = options.train_size + round(setup.validation)
    return dataclasses.replace(once, train_size=size, holdout=setup.validation / size)


def choose(
    setup: TaskSetup, choice: Choice, results: Sequence[tuple[Setting, Result]]
) -> Chosen | None:
    """Choose by marginal means; of equal ones the smaller value. ``None`` without a result."""
    if not results:
        return None
    worth = [(setting, _worth(result)) for setting, result in results]
    rates = _marginal(worth, lambda setting: setting[1])
    return Chosen(
        task=setup.name,
        choice=choice.name,
        learning_rate=_best(_marginal(worth, lambda setting: setting[0])),
        rate=None if None in rates else _best(rates),
        runs=len(results),
        scores=_marginal(worth, lambda setting: setting),
    )


def _worth(result: Result) -> float:
    last = result.metrics[result.main_metric].last
    return _DIVERGED if last is None else last


def _marginal(
    worth: Sequence[tuple[Setting, float]], part: Callable[[Setting], Any]
) -> dict[Any, float]:
    found: dict[Any, list[float]] = defaultdict(list)
    for setting, value in worth:
        found[part(setting)].append(value)
    return {key: mean(values) for key, values in found.items()}


def _best(means: Mapping[float, float]) -> float:
    return max(means, key=lambda value: (means[value], -value))
