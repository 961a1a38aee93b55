"""Everything about a run that can be known, and refused, before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hiddenkey.errors import ConfigError
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.rules import validate
from hiddenkey.lab.tasks import TASKS, Example, Splits, Task, find_task
from hiddenkey.lab.tasks.sampling import draw, split

if TYPE_CHECKING:
    from hiddenkey import DropoutConfig


@dataclass(frozen=True)
class Prepared:
    """A run whose settings and data hold.

    Attributes:
        task: the task.
        splits: the examples that the run uses, after drawing.
        config: what is dropped.
    """

    task: Task
    splits: Splits
    config: DropoutConfig

    def data_record(self) -> dict[str, Any]:
        """What ``data.json`` holds."""
        return {
            "task": self.task.name,
            "labels": list(self.splits.label_names),
            "train_examples": len(self.splits.train),
            "eval_examples": len(self.splits.evaluation),
            "sha256": self.splits.fingerprint(),
        }


def prepare(options: TrainOptions, splits: Splits | None = None) -> Prepared:
    """Check the options, read the data and build the dropout configuration.

    Args:
        options: the settings.
        splits: the examples, where they were read for a run with the same choice of data.

    Raises:
        ConfigError: with every fault of the settings and of the data together.
    """
    from hiddenkey.lab.run.dropout import dropout_config

    faults = validate(options)
    config = None
    try:
        config = dropout_config(options)
    except ConfigError as error:
        faults += error.faults
    if splits is None and (not faults or _data_is_readable(options)):
        try:
            splits = load_splits(options)
        except ConfigError as error:
            faults += [fault for fault in error.faults if fault not in faults]
    if faults or config is None or splits is None:
        raise ConfigError(faults)
    return Prepared(find_task(options.task, options), splits, config)


def load_splits(options: TrainOptions) -> Splits:
    """Read the task's examples and draw the ones that the run uses.

    The evaluation examples depend on ``eval_size`` alone, so that every seed is judged on the same.
    With ``holdout`` they are that share of the drawn training examples, which are then not trained
    on, and the task's own evaluation examples are left unread by the run.

    Raises:
        ConfigError: with every fault of the data.
    """
    task = find_task(options.task, options)
    splits = task.load(options)
    faults = []
    for name, part in (("train_size", splits.train), ("eval_size", splits.evaluation)):
        wanted = getattr(options, name)
        if wanted is not None and wanted > len(part):
            faults.append(
                f"{name} must be at most {len(part)}, the examples of task {task.name!r}, got"
                f" {wanted}; leave it out to use all"
            )
    if faults:
        raise ConfigError(faults)
    train = draw(splits.train, options.train_size, options.data_seed, task.kind)
    evaluation = splits.evaluation
    if options.holdout is not None:
        train, evaluation = _hold_out(train, options, task)
    return Splits(train, draw(evaluation, options.eval_size, 0, task.kind), splits.label_names)


def _hold_out(
    train: tuple[Example, ...], options: TrainOptions, task: Task
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    share = options.holdout or 0.0
    size = round(share * len(train))
    if not 0 < size < len(train):
        raise ConfigError(
            f"holdout must leave examples on both sides, got {share:g} of {len(train)} training"
            " examples; take another share or more examples"
        )
    held_out, rest = split(train, size, options.data_seed, task.kind)
    return rest, held_out


def _data_is_readable(options: TrainOptions) -> bool:
    """Whether the settings say clearly enough which data to read, whatever else is wrong."""
    task = TASKS.get(options.task)
    if task is None or not (options.holdout is None or 0 < options.holdout < 1):
        return False
    if task.needs == "folder":
        return options.data is not None
    if task.needs == "files":
        has_columns = bool(options.text_columns) or task.kind == "generation"
        return bool(options.train_file and options.eval_file and has_columns)
    return True
