"""The examples of many runs, each choice of data read once; and what a plan can be refused for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.assets import need_model
from hiddenkey.lab.plans.identity import VARIED, changed
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.search import SEARCHABLE, Search, held_out
from hiddenkey.lab.plans.trials import searched_options
from hiddenkey.lab.plans.validation import evaluation_faults_of, validate
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import Prepared, prepare
from hiddenkey.lab.scores import skipped_without_java
from hiddenkey.lab.tasks import TASKS, Splits, Task
from hiddenkey.lab.tasks.classes import described

_NO_CHOICE: Final = frozenset({*VARIED, "also", "adapter", *SEARCHABLE})
"""Settings that a plan varies and that choose no examples; any other one may."""


class Data:
    """Prepares runs and remembers their examples."""

    def __init__(self) -> None:
        self._splits: dict[str, Splits] = {}
        self._prints: dict[str, str] = {}

    def prepare(self, options: TrainOptions) -> Prepared:
        """Prepare a run as :mod:`hiddenkey.lab.run.preparation` does; read each data set once."""
        choice = _choice(options)
        prepared = prepare(options, self._splits.get(choice))
        self._splits[choice] = prepared.splits
        return prepared

    def splits(self, options: TrainOptions) -> Splits:
        """The examples of a run."""
        return self.prepare(options).splits

    def judged(self, options: TrainOptions) -> int:
        """How many examples a run is evaluated on."""
        return len(self.splits(options).evaluation)

    def fingerprint(self, options: TrainOptions) -> str:
        """Hash of a run's examples."""
        choice = _choice(options)
        if choice not in self._prints:
            self._prints[choice] = self.splits(options).fingerprint()
        return self._prints[choice]

    def described(self) -> list[str]:
        """What each choice of data holds."""
        found = [(json.loads(choice), splits) for choice, splits in self._splits.items()]
        tasks = [choice["task"] for choice, _ in found]
        lines = [
            f"{choice['task']}: {line}"
            for choice, splits in found
            for line in (*_columns(choice), *described(splits))
        ]
        lines += [f"{task}: {line}" for task in tasks for line in _skipped(TASKS[task])]
        return list(dict.fromkeys(lines))

    def faults(self, runs: Iterable[TrainOptions], *, models: bool = True) -> list[str]:
        """Return every fault of the runs, each once, with the task and method that have it.

        A fault that all distinct settings share is said without them.

        Args:
            runs: their settings.
            models: whether bundled models must be installed, as they must be to train.
        """
        found: dict[str, list[str]] = {}
        distinct = {json.dumps(changed(run), sort_keys=True): run for run in runs}
        for run in distinct.values():
            checks = [self.prepare, _need_model] if models else [self.prepare]
            for check in checks:
                try:
                    check(run)
                except ConfigError as error:
                    for fault in error.faults:
                        found.setdefault(fault, []).append(f"{run.method} on {run.task}")
        return [
            fault if len(places) == len(distinct) else f"{places[0]}: {fault}"
            for fault, places in found.items()
        ]


def _need_model(options: TrainOptions) -> None:
    need_model(options.model)


def _columns(choice: Mapping[str, Any]) -> Iterator[str]:
    """Which columns of a file of one's own are read, as a guess may be wrong."""
    if choice["task"] == "file":
        texts = " and ".join(map(repr, choice["text_columns"]))
        yield f"texts from column {texts}, labels from column {choice['label_column']!r}"


def _skipped(task: Task) -> Iterator[str]:
    if task.kind == "generation" and (said := skipped_without_java(task.family)):
        yield said


def _choice(options: TrainOptions) -> str:
    settings = options.recorded()
    left_out = _NO_CHOICE - {"seed"} if options.resample else _NO_CHOICE
    return json.dumps({name: settings[name] for name in settings if name not in left_out})


def check(plan: Plan, *, given: bool = True) -> Data:
    """Check the plan, the settings of all its runs and their data; return the data.

    Args:
        plan: the plan.
        given: whether a user wrote it; one of ours may hold out examples beside an eval_file.

    Raises:
        ConfigError: with every fault.
    """
    faults = validate(plan) + (evaluation_faults_of(plan) if given else [])
    data = Data()
    faults += data.faults(_runs_to_check(plan))
    if faults:
        raise ConfigError(faults)
    return data


def _runs_to_check(plan: Plan) -> list[TrainOptions]:
    """Every distinct setting with one seed, and one setting with every seed."""
    settings = plan.settings()
    runs = [dataclasses.replace(options, seed=plan.seeds[0]) for options in settings if plan.seeds]
    runs += [dataclasses.replace(options, seed=s) for options in settings[:1] for s in plan.seeds]
    search = plan.searched
    if search is not None:
        runs += [run for options in settings for run in _ends(options, search)]
    return runs


def _ends(options: TrainOptions, search: Search) -> list[TrainOptions]:
    """The runs at both ends of a search's space, on its validation part."""
    held = held_out(options, search)
    space = search.space_of(options.method)
    return [
        searched_options(held, {name: bounds[end] for name, bounds in space.items()})
        for end in (0, 1)
    ]
