"""One trial in the hands of a worker: what it shows, and whether it is still this worker's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial

from hiddenkey.lab.run.recorder import Observer


class Attempt:
    """An objective that remembers its trial and how it failed."""

    def __init__(self, objective: Callable[[optuna.Trial], float]) -> None:
        self._objective = objective
        self._trial: optuna.Trial | None = None
        self.error: BaseException | None = None

    def __call__(self, trial: optuna.Trial) -> float:
        """Do the job of a trial."""
        self._trial = trial
        try:
            return self._objective(trial)
        except BaseException as error:
            self.error = error
            raise

    def was_ended(self) -> bool:
        """Whether the trial was ended by another worker, which took this one for dead."""
        return self._trial is not None and frozen(self._trial).state.is_finished()


class LiveView(Observer):
    """Shows the main metric in Optuna's dashboard while the run goes on."""

    def __init__(self, trial: optuna.Trial, metric: str) -> None:
        self._trial = trial
        self._metric = metric

    def evaluated(self, line: Mapping[str, Any]) -> None:
        """Report one evaluation; a moment without the database only leaves out a point."""
        value, step = line.get(f"eval_{self._metric}"), line["step"]
        with suppress(StorageInternalError, UpdateFinishedTrialError):
            # a search trains several seeds in a trial, of which the first one is shown
            if value is not None and step not in frozen(self._trial).intermediate_values:
                self._trial.report(value, step)


def show(trial: optuna.Trial, name: str, value: float) -> None:
    """Make a queued number one of the trial's parameters, for Optuna's dashboard."""
    if isinstance(value, int):
        trial.suggest_int(name, 0, 2**32)
    else:
        trial.suggest_float(name, 0.0, sys.float_info.max)


def frozen(trial: optuna.Trial) -> FrozenTrial:
    """What the study holds of a trial by now."""
    trials = trial.study.get_trials(deepcopy=False)
    return next(other for other in trials if other.number == trial.number)
