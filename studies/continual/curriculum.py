"""The tasks of a sequence, whose classes share one head."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

from continual.options import ContinualOptions
from hiddenkey.errors import ConfigError, not_one_of
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import load_splits, model_faults
from hiddenkey.lab.tasks import TASKS, Example, Splits


@dataclass(frozen=True)
class Stage:
    """One task of the sequence.

    Attributes:
        name: the task.
        train: its training examples, labelled by the head's classes.
        evaluation: its evaluation examples, likewise.
        classes: first of the head's classes that are its own, and the first after them.
    """

    name: str
    train: tuple[Example, ...]
    evaluation: tuple[Example, ...]
    classes: tuple[int, int]


@dataclass(frozen=True)
class Curriculum:
    """The sequence.

    Attributes:
        stages: the tasks in their order.
        label_names: of the head's classes.
    """

    stages: tuple[Stage, ...]
    label_names: tuple[str, ...]

    def fingerprint(self) -> str:
        """Hash of every text and label in order."""
        digest = hashlib.sha256()
        for stage in self.stages:
            digest.update(Splits(stage.train, stage.evaluation).fingerprint().encode())
        return digest.hexdigest()


def load_curriculum(options: ContinualOptions, seed: int) -> Curriculum:
    """Read the tasks; the seed draws the training examples, and none the evaluation examples.

    Raises:
        ConfigError: with every fault of the settings and of the data.
    """
    if faults := [*task_faults(options), *model_faults(options.model)]:
        raise ConfigError(faults)
    stages: list[Stage] = []
    names: list[str] = []
    for name in options.tasks:
        splits = load_splits(_training(options, name, seed))
        start = len(names)
        names += [f"{name}: {label}" for label in splits.label_names]
        train, evaluation = (
            tuple(dataclasses.replace(each, label=start + int(each.label)) for each in part)
            for part in (splits.train, splits.evaluation)
        )
        stages.append(Stage(name, train, evaluation, (start, len(names))))
    return Curriculum(tuple(stages), tuple(names))


def task_faults(options: ContinualOptions) -> list[str]:
    """Return what is wrong with the tasks of a sequence, one sentence each."""
    if len(set(options.tasks)) < max(2, len(options.tasks)):
        return [
            f"tasks must be two different ones at least, got {list(options.tasks)}; three are usual"
        ]
    faults = []
    for name in options.tasks:
        if name not in TASKS:
            faults.append(not_one_of("tasks", name, TASKS))
        elif TASKS[name].kind != "classification" or TASKS[name].needs == "files":
            faults.append(f"tasks must be of classes and have a name, got {name!r}; leave it out")
        elif TASKS[name].needs == "folder" and options.data is None:
            faults.append(f"task {name!r} needs the folder of its files; give --data FOLDER")
    return faults


def _training(options: ContinualOptions, task: str, seed: int) -> TrainOptions:
    return TrainOptions(
        task=task,
        data=options.data if TASKS[task].needs == "folder" else None,
        train_size=options.train_size,
        eval_size=options.eval_size,
        data_seed=seed,
    )
