"""Everything about a run that can be known, and refused, before a model is loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.assets import BUNDLED_MODELS
from hiddenkey.lab.run.choice import choice_faults, chooses
from hiddenkey.lab.run.limits import limit_faults
from hiddenkey.lab.run.meaning import adapter_faults, sharpness_faults, task_faults
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.positions import position_faults
from hiddenkey.lab.run.quantised import quantisation_faults
from hiddenkey.lab.run.trackers import tracker_faults
from hiddenkey.lab.tasks import TASKS, Example, Splits, Task, find_task
from hiddenkey.lab.tasks.generation import merge_references
from hiddenkey.lab.tasks.remarks import remarks
from hiddenkey.lab.tasks.sampling import draw, split_apart

if TYPE_CHECKING:
    from hiddenkey import DropoutConfig

_HUB_NAME: Final = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Prepared:
    """A run whose settings and data hold.

    Attributes:
        task: the task.
        splits: the examples that the run uses, after drawing.
        config: what is dropped.
        choice: training examples that are held out to choose what is used at inference.
        trained: the other training examples.
    """

    task: Task
    splits: Splits
    config: DropoutConfig
    choice: tuple[Example, ...]
    trained: tuple[Example, ...]

    def data_record(self) -> dict[str, Any]:
        """What ``data.json`` holds."""
        judged = {"main_metric": self.splits.main_metric} if self.splits.main_metric else {}
        held_out = {"choice_examples": len(self.choice)} if self.choice else {}
        return (
            judged
            | held_out
            | {
                "task": self.task.name,
                "labels": list(self.splits.label_names),
                "train_examples": len(self.splits.train),
                "eval_examples": len(self.splits.evaluation),
                "sha256": self.splits.fingerprint(),
            }
        )


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
    task = find_task(options.task, options).judged_by(splits.main_metric)
    if not chooses(options):
        return Prepared(task, splits, config, choice=(), trained=splits.train)
    apart = _hold_out(splits, "choice_share", options, task)
    splits = dataclasses.replace(splits, notes=tuple(dict.fromkeys(apart.notes)))
    return Prepared(task, splits, config, choice=apart.evaluation, trained=apart.train)


def validate(options: TrainOptions) -> list[str]:
    """Return every broken rule that can be seen without data, torch or a model.

    The method, its rates and the layers are checked where the dropout configuration is built.
    """
    return [
        *limit_faults(options),
        *_resample_faults(options),
        *task_faults(options),
        *adapter_faults(options),
        *quantisation_faults(options),
        *sharpness_faults(options),
        *model_faults(options.model),
        *position_faults(options),
        *choice_faults(options),
        *_name_faults(options),
        *tracker_faults(options.report_to),
    ]


def model_faults(model: str) -> list[str]:
    """Return what is wrong with a model's name or folder."""
    if model in BUNDLED_MODELS:
        return []
    folder = Path(model)
    if folder.suffix.lower() == ".gguf":
        return (
            []
            if os.path.isfile(model)
            else [f"model file {model!r} does not exist; check the path"]
        )
    if os.path.isdir(model):  # unlike Path's, quiet about names that are too long
        if os.path.isfile(folder / "config.json"):
            return []
        return [f"model must be a folder with a config.json, got {model!r}; check the path"]
    if _HUB_NAME.fullmatch(model) and not model.startswith("."):
        return []
    bundled = ", ".join(BUNDLED_MODELS)
    return [
        f"model must be a folder, a name on the hub or one of {bundled}, got {model!r};"
        " no such folder exists, check the path"
    ]


def load_splits(options: TrainOptions) -> Splits:
    """Read the task's examples and draw the ones that the run uses.

    The evaluation examples depend on ``eval_size`` alone, so that every seed is judged on the same.
    With ``holdout`` they are that share of the drawn training examples, which are then not trained
    on, and the task's own evaluation examples are left unread by the run. Of a single file they are
    held out before the training examples are drawn, so that ``train_size`` cannot change them.
    ``validation`` does the same once more, with what is left to train on.

    Raises:
        ConfigError: with every fault of the data.
    """
    task = find_task(options.task, options)
    splits = task.load(options)
    is_single = not splits.evaluation
    if is_single:
        splits = _hold_out(splits, "holdout", options, task)
    if faults := _size_faults(splits, options, task):
        raise ConfigError(faults)
    pool = splits.fingerprint() if options.resample else ""
    train = draw(splits.train, options.train_size, _draw_seed(options), task.kind)
    splits = dataclasses.replace(splits, train=train, pool=pool)
    if options.holdout is not None and not is_single:
        splits = _hold_out(splits, "holdout", options, task)
    if options.validation is not None:
        splits = _hold_out(splits, "validation", options, task)
    evaluation = draw(splits.evaluation, options.eval_size, 0, task.kind)
    splits = dataclasses.replace(splits, evaluation=evaluation)
    _refuse_one_score(splits, task)
    return dataclasses.replace(splits, notes=(*splits.notes, *remarks(splits, task.kind)))


def _refuse_one_score(splits: Splits, task: Task) -> None:
    """Scores are judged by correlations, which equal ones do not have."""
    scores = {example.label for example in splits.evaluation}
    if task.kind == "regression" and len(scores) < 2:
        count, score = len(splits.evaluation), next(iter(scores))
        raise ConfigError(
            "evaluation scores must differ, or no correlation with them is defined, got"
            f" {count:,} of {score:g}; evaluate on more examples"
        )


def _draw_seed(options: TrainOptions) -> int:
    """The seed of the draw of training examples; neighbouring ones have nothing in common."""
    if not options.resample:
        return options.data_seed
    both = f"{options.data_seed} {options.seed}".encode()
    return int.from_bytes(hashlib.sha256(both).digest()[:4])


def _size_faults(splits: Splits, options: TrainOptions, task: Task) -> list[str]:
    return [
        f"{name} must be at most {len(part)}, the examples of task {task.name!r}, got"
        f" {wanted}; leave it out to use all"
        for name, part in (("train_size", splits.train), ("eval_size", splits.evaluation))
        if (wanted := getattr(options, name)) is not None and wanted > len(part)
    ]


def _hold_out(splits: Splits, name: str, options: TrainOptions, task: Task) -> Splits:
    """Evaluate on a share of the training examples; a prompt is one example with all its texts."""
    share, train = getattr(options, name), splits.train
    size = round(share * len(train))
    parts, doubled = split_apart(train, size, options.data_seed, task.kind)
    held_out, rest = parts
    if not (held_out and rest):
        why, more = "", "examples"
        if doubled:
            texts = len(train) - doubled
            why = f" (different texts: {texts:,}; equal texts stay on one side)"
            more = "different texts"
        raise ConfigError(
            f"{name} must leave examples on both sides, got {share:g} of {len(train)} training"
            f" examples{why}; take another share or more {more}"
        )
    if task.kind == "generation":
        held_out = merge_references(held_out)
    notes = splits.notes
    if doubled:
        notes += (
            f"{name}: {doubled:,} of {len(train):,} examples repeat the text of another one; equal"
            " texts are on one side only",
        )
    return dataclasses.replace(splits, train=rest, evaluation=held_out, notes=notes)


def _resample_faults(options: TrainOptions) -> list[str]:
    if not options.resample or options.train_size is not None:
        return []
    return [
        "resample draws train_size examples anew for each seed, got no train_size; give one below"
        " the number of training examples"
    ]


def _data_is_readable(options: TrainOptions) -> bool:
    """Whether the settings say clearly enough which data to read, whatever else is wrong."""
    task = TASKS.get(options.task)
    shares = (options.holdout, options.validation)
    if task is None or not all(share is None or 0 < share < 1 for share in shares):
        return False
    if task.needs == "folder":
        return options.data is not None
    if task.needs == "files":
        has_columns = bool(options.text_columns) or task.kind == "generation"
        can_evaluate = options.eval_file or options.holdout
        return bool(options.train_file and can_evaluate and has_columns)
    return True


def _name_faults(options: TrainOptions) -> list[str]:
    faults = []
    if options.resume and options.overwrite:
        faults.append("resume and overwrite exclude each other, got both; leave one out")
    if options.target_modules is not None and not options.target_modules:
        faults.append(
            "target_modules must name a linear layer, got none; leave it out for key and value"
        )
    if os.path.exists(options.folder) and not os.path.isdir(options.folder):
        faults.append(f"output must be a folder, got file {str(options.folder)!r}; name another")
    return faults
