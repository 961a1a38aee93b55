"""The user's own CSV, TSV, JSONL or Parquet files: classes, scores, or prompts and completions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.scores import METRICS
from hiddenkey.lab.scores.answers import main_metric
from hiddenkey.lab.tasks.base import Example, Source, Splits, Task
from hiddenkey.lab.tasks.chats import find_form, read_conversations
from hiddenkey.lab.tasks.classes import doubts, in_order
from hiddenkey.lab.tasks.files import FileFaults, refuse
from hiddenkey.lab.tasks.generation import merge_references
from hiddenkey.lab.tasks.tables import Columns, column_names, read_examples, read_splits


def resolve(source: Source) -> Task:
    """Return the task that ``--task file`` means for this source."""
    if not source.regression:
        return FILE
    return replace(FILE, kind="regression", metrics=("pearson", "spearman"))


def _load_file(source: Source) -> Splits:
    train_file, eval_file = _files(source, "file")
    names = () if source.regression else source.label_names
    labels = {name: index for index, name in enumerate(names)} or None
    columns = Columns(texts=source.text_columns, label=source.label_column, labels=labels)
    if source.regression or names:
        return Splits(*read_splits(train_file, eval_file, columns), names)
    return _with_found_classes(train_file, eval_file, replace(columns, is_open=True))


def _with_found_classes(train_file: Path, eval_file: Path | None, columns: Columns) -> Splits:
    """Read the files; the labels of the training file are the classes."""
    faults = (FileFaults(train_file), FileFaults(eval_file or ""))
    train = read_examples(train_file, columns, faults[0])
    counts = Counter(str(example.label) for example in train)
    for doubt in () if faults[0].found else doubts(counts, columns.label):
        faults[0].add(doubt)
    names = in_order(counts)
    labels = {name: index for index, name in enumerate(names)}
    closed = columns if faults[0].found else replace(columns, labels=labels, is_open=False)
    evaluation = read_examples(eval_file, closed, faults[1]) if eval_file else ()
    refuse(*faults)
    indexed = (replace(example, label=labels[str(example.label)]) for example in train)
    return Splits(tuple(indexed), evaluation, names)


def _load_completion(source: Source) -> Splits:
    faults = [FileFaults(path) for path in _files(source, "completion") if path is not None]
    read = [_completions(Path(each.path), source, each) for each in faults]
    refuse(*faults)
    train, *evaluation = (examples for examples, _ in read)
    merged = merge_references(evaluation[0] if evaluation else ())
    main = main_metric([each.references for each in merged or merge_references(train)])
    main = main if main != COMPLETION.metrics[0] else ""
    notes = tuple(note for _, note in read if note)
    return Splits(tuple(train), merged, main_metric=main, notes=notes)


def _completions(path: Path, source: Source, faults: FileFaults) -> tuple[Sequence[Example], str]:
    """Read prompts and completions, or conversations, which their columns are known by."""
    is_named = source.label_column != Source().label_column
    target = source.label_column if is_named else "completion"
    columns = Columns(source.text_columns or ("prompt",), target, is_text=True)
    present = () if is_named or source.text_columns else column_names(path)
    form = None if {*columns.texts, target} & {*present} else find_form(present)
    if form is not None:
        return read_conversations(path, form, faults)
    return read_examples(path, columns, faults), ""


def _files(source: Source, task: str) -> tuple[Path, Path | None]:
    if source.train_file is None:
        raise ConfigError(f"--task {task} needs your training file; give --train-file")
    return Path(source.train_file), Path(source.eval_file) if source.eval_file else None


FILE: Final = Task(
    name="file",
    summary="your own .csv, .tsv, .jsonl or .parquet files (classes, or scores with --regression)",
    kind="classification",
    metrics=("accuracy", "f1_macro", "matthews"),
    needs="files",
    load=_load_file,
)
COMPLETION: Final = Task(
    name="completion",
    summary="your own prompts and completions, or conversations (messages, ShareGPT, Alpaca)",
    kind="generation",
    metrics=METRICS["completion"],
    needs="files",
    load=_load_completion,
    family="completion",
)
