"""The rules of a run's settings that need no data, no torch and no model."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Final

from hiddenkey.errors import not_one_of
from hiddenkey.lab.assets import BUNDLED_MODELS
from hiddenkey.lab.run.limits import limit_faults
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.tasks import TASKS, Task

_FILES: Final = ("train_file", "eval_file")
_COLUMNS: Final = ("text_columns",)
_LABELS: Final = ("label_names", "regression")
HUB_NAME: Final = re.compile(r"[\w.-]+(/[\w.-]+)?")


def validate(options: TrainOptions) -> list[str]:
    """Return every broken rule that can be seen without data, torch or a model.

    The method, its rates and the layers are checked where the dropout configuration is built.
    """
    return [
        *limit_faults(options),
        *_task_faults(options),
        *_adapter_faults(options),
        *model_faults(options.model),
        *_name_faults(options),
    ]


_ADAPTERS_WITH: Final = {
    "rank": ("lora", "dora"),
    "lora_alpha": ("lora", "dora"),
    "lora_dropout": ("lora", "dora"),
    "target_modules": ("lora", "dora", "ia3"),
    "prefix_tokens": ("prefix",),
}
"""The adapters for which a setting means something."""


def _adapter_faults(options: TrainOptions) -> list[str]:
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


def _task_faults(options: TrainOptions) -> list[str]:
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
    return faults + (_column_faults(options) if task.needs == "files" else [])


def _own_settings(task: Task) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The settings of one's own files that a task needs, and those that say nothing to it."""
    if task.needs != "files":
        return (), (*_FILES, *_COLUMNS, *_LABELS)
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
    return faults


def model_faults(model: str) -> list[str]:
    """Return what is wrong with a model's name or folder."""
    if model in BUNDLED_MODELS:
        return []
    folder = Path(model)
    if folder.suffix.lower() == ".gguf":
        return [] if folder.is_file() else [f"model file {model!r} does not exist; check the path"]
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return []
        return [f"model must be a folder with a config.json, got {model!r}; check the path"]
    if HUB_NAME.fullmatch(model) and not model.startswith("."):
        return []
    bundled = ", ".join(BUNDLED_MODELS)
    return [
        f"model must be a folder, a name on the hub or one of {bundled}, got {model!r};"
        " no such folder exists, check the path"
    ]


def _name_faults(options: TrainOptions) -> list[str]:
    faults = []
    if options.resume and options.overwrite:
        faults.append("resume and overwrite exclude each other, got both; leave one out")
    if options.target_modules is not None and not options.target_modules:
        faults.append(
            "target_modules must name a linear layer, got none; leave it out for key and value"
        )
    if options.folder.exists() and not options.folder.is_dir():
        faults.append(f"output must be a folder, got file {str(options.folder)!r}; name another")
    return faults
