"""The settings of a search's trials, as Optuna draws them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hiddenkey.lab.plans.search import SEARCHABLE, Algorithm, Bounds, is_whole

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.samplers import BaseSampler


def suggest(trial: Trial, space: Mapping[str, Bounds]) -> dict[str, Any]:
    """Let Optuna choose the settings of a trial."""
    chosen: dict[str, Any] = {}
    for name, bounds in space.items():
        low, high = bounds[0], bounds[-1]
        if isinstance(low, str) or isinstance(high, str):
            chosen[name] = trial.suggest_categorical(name, bounds)
            continue
        log = low > 0 and high / low >= 10
        if SEARCHABLE.get(name) is int or (
            name not in SEARCHABLE and is_whole(low) and is_whole(high)
        ):
            chosen[name] = trial.suggest_int(name, int(low), int(high), log=log)
        else:
            chosen[name] = trial.suggest_float(name, low, high, log=log)
    return chosen


def sampler(index: int, trials: int, algorithm: Algorithm = "tpe") -> BaseSampler:
    """Return the sampler of one trial.

    Args:
        index: number of the trial in its search, from 0.
        trials: all trials of the search; of TPE a third of them is random.
        algorithm: of the search.
    """
    from optuna.samplers import RandomSampler, TPESampler

    if algorithm == "halving":
        return RandomSampler(seed=index)
    return TPESampler(
        n_startup_trials=max(1, trials // 3), seed=index, multivariate=True, constant_liar=True
    )
