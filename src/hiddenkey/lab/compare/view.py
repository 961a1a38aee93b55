"""What is seen of a run while it goes on: in Optuna's dashboard, and in the command's own lines."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hiddenkey.framework.catalogue import methods
from hiddenkey.lab.queue.live import Doing, Live
from hiddenkey.lab.run.recorder import Observer


class LiveView(Observer, TrainerCallback):  # type: ignore[misc]
    """Reports a run's evaluations to its trial, and its steps to the command.

    Args:
        trial: the trial.
        metric: name of the main metric.
        live: tells the command.
        name: of the run.
    """

    def __init__(self, trial: optuna.Trial, metric: str, live: Live, name: str) -> None:
        self._trial = trial
        self._metric = metric
        self._live = live
        self._doing = Doing(name)
        live.tell(self._doing, now=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Tell the step."""
        self._doing = replace(self._doing, step=state.global_step, steps=state.max_steps)
        self._live.tell(self._doing)

    def evaluated(self, line: Mapping[str, Any]) -> None:
        """Report one evaluation; a moment without the database only leaves out a point."""
        value, step = line.get(f"eval_{self._metric}"), line["step"]
        if value is not None:
            self._doing = replace(self._doing, note=f"{self._metric} {value:.4f}")
            self._live.tell(self._doing, now=True)
        with suppress(StorageInternalError, UpdateFinishedTrialError):
            # a search trains several seeds in a trial, of which the first one is shown
            if value is not None and step not in frozen(self._trial).intermediate_values:
                self._trial.report(value, step)

    def generating(self, count: int) -> None:
        """Tell that texts are generated next."""
        self._doing = replace(self._doing, step=0, steps=count, note="generating")
        self._live.tell(self._doing, now=True)

    def generated(self, count: int) -> None:
        """Tell how many there are."""
        self._doing = replace(self._doing, step=self._doing.step + count)
        self._live.tell(self._doing)


def show(trial: optuna.Trial, name: str, value: float | str) -> None:
    """Make a queued value one of the trial's parameters, for Optuna's dashboard."""
    if isinstance(value, str):
        # of one study all trials must have the same words to choose from, also those of another
        # version of this package, whose words may be others: then the value is not shown
        with suppress(ValueError):
            trial.suggest_categorical(name, list(methods()))
    elif isinstance(value, int):
        trial.suggest_int(name, 0, 2**32)
    else:
        trial.suggest_float(name, 0.0, sys.float_info.max)


def frozen(trial: optuna.Trial) -> FrozenTrial:
    """What the study holds of a trial by now."""
    trials = trial.study.get_trials(deepcopy=False)
    return next(other for other in trials if other.number == trial.number)
