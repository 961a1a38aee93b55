"""Which settings of a run mean something to its task and its adapter; the others are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final

from hiddenkey.errors import not_one_of
from hiddenkey.installation import extra_with, install_command
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.tasks import TASKS, Task

_FILES: Final = ("train_file",)
_COLUMNS: Final = ("text_columns",)
_LABELS: Final = ("label_names", "regression")
_GENERATION: Final = (
    *("beams", "length_penalty", "no_repeat_ngram", "max_new_tokens", "generation_batch_size"),
)
_ADAPTERS_WITH: Final = {
    "rank": ("lora", "dora"),
    "lora_alpha": ("lora", "dora"),
    "lora_dropout": ("lora", "dora"),
    "target_modules": ("lora", "dora", "ia3"),
    "prefix_tokens": ("prefix",),
    "mixup_alpha": ("lora", "dora", "ia3", "full"),
    "neftune_alpha": ("lora", "dora", "ia3", "full"),  # transformers finds no embedding in others
}
"""The adapters for which a setting means something."""

_SAM: Final = "pytorch_optimizer"

MIXED_KINDS: Final = ("classification", "regression")
"""The kinds of task whose examples mixup can mix."""


def adapter_faults(options: TrainOptions) -> list[str]:
    """Return which settings mean nothing to the chosen adapter."""
    faults = [
        f"{field.name} is for the adapters {' and '.join(_ADAPTERS_WITH[field.name])}, got"
        f" {getattr(options, field.name)!r} with adapter {options.adapter!r}; leave it out"
        for field in dataclasses.fields(options)
        if options.adapter not in _ADAPTERS_WITH.get(field.name, (options.adapter,))
        and getattr(options, field.name) != field.default
    ]
    if options.adapter == "prefix" and options.gradient_checkpointing:
        faults.append(
            "gradient_checkpointing must be off with adapter 'prefix', whose keys and values come"
            " from a cache; leave one of them out"
        )
    return faults


def sharpness_faults(options: TrainOptions) -> list[str]:
    """Return why a run cannot take its steps by SAM."""
    if not options.sam_rho:
        return []
    faults = []
    if options.gradient_accumulation > 1:
        faults.append(
            "gradient_accumulation must be 1 with sam_rho, for ε is that of a whole step, got"
            f" {options.gradient_accumulation}; take a larger batch_size"
        )
    if find_spec(_SAM) is None:
        faults.append(
            f"sam_rho={options.sam_rho:g} needs package {_SAM!r}, which is missing; run:"
            f" {install_command(extra_with(_SAM))}"
        )
    return faults


def task_faults(options: TrainOptions) -> list[str]:
    """Return what the chosen task lacks, and which settings mean nothing to it."""
    task = TASKS.get(options.task)
    if task is None:
        return [not_one_of("task", options.task, TASKS, "; choose one")]
    faults = []
    if task.needs == "folder" and options.data is None:
        faults.append(
            f"task {task.name!r} needs the folder of its files, got no data;"
            f" give --data FOLDER with FOLDER/{task.files} in it{task.otherwise}"
        )
    if task.needs != "folder" and options.data is not None:
        faults.append(
            f"data is for tasks that are read from a folder, got {options.data!r} with task"
            f" {task.name!r}; leave it out"
        )
    for name in () if task.kind == "generation" else _GENERATION:
        if (value := getattr(options, name)) != getattr(TrainOptions, name):
            faults.append(
                f"{name} is for tasks that generate text, got {value!r} with task {task.name!r};"
                " leave it out"
            )
    if options.mixup_alpha and task.kind not in MIXED_KINDS:
        faults.append(
            f"mixup_alpha is for classification and regression, got {options.mixup_alpha:g} with"
            f" task {task.name!r}; leave it out"
        )
    return faults + _own_file_faults(options, task)


def _own_file_faults(options: TrainOptions, task: Task) -> list[str]:
    needed, unused = _own_settings(task)
    faults = [
        f"task {task.name!r} needs {name}, got none; give --{name.replace('_', '-')}"
        for name in needed
        if not getattr(options, name)
    ]
    faults += [
        f"{name} is for task 'file', got {value!r} with task {task.name!r};"
        " use --task file or leave it out"
        for name in unused
        if (value := getattr(options, name))
    ]
    if task.needs == "files" and not options.eval_file and options.holdout is None:
        faults.append(
            f"task {task.name!r} needs examples to evaluate on, got none; give --eval-file FILE, or"
            " --holdout 0.2 to hold out a fifth of the training file"
        )
    return faults + (_column_faults(options) if task.needs == "files" else [])


def evaluation_faults(given: Mapping[str, Any]) -> list[str]:
    """Refuse two ways to name the evaluation examples, of which one would be left unread.

    A search holds out a part of its own beside an evaluation file, so that only what a user gives
    is looked at.

    Args:
        given: settings of a run by name.
    """
    if given.get("holdout") is None or not given.get("eval_file"):
        return []
    return [
        f"holdout and eval_file exclude each other, got {given['holdout']!r} and"
        f" {given['eval_file']!r}; take one: holdout cuts the evaluation examples from train_file,"
        " eval_file names others"
    ]


def _own_settings(task: Task) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The settings of one's own files that a task needs, and those that say nothing to it."""
    if task.needs != "files":
        return (), (*_FILES, "eval_file", *_COLUMNS, *_LABELS)
    return (_FILES, _LABELS) if task.kind == "generation" else ((*_FILES, *_COLUMNS), ())


def _column_faults(options: TrainOptions) -> list[str]:
    faults = []
    if len(options.text_columns) > 2:
        faults.append(
            f"text_columns must name one column or two, got {list(options.text_columns)!r};"
            " join the texts in your file"
        )
    if options.label_column in options.text_columns:
        faults.append(
            f"label_column must not be a text column, got {options.label_column!r}; name another"
        )
    if options.regression and options.label_names:
        faults.append(
            f"label_names are for classes, got {list(options.label_names)!r} with regression;"
            " leave one of them out"
        )
    if len(set(options.label_names)) < len(options.label_names) or len(options.label_names) == 1:
        faults.append(
            "label_names must hold at least two different names, got"
            f" {list(options.label_names)!r}; name every label once"
        )
    if not all(name.strip() for name in options.label_names):
        faults.append(f"label_names must be text, got {list(options.label_names)!r}; correct them")
    return faults
