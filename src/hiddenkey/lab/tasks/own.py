"""The user's own CSV, TSV, JSONL or Parquet files: classes, scores, or prompts and completions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.scores import METRICS
from hiddenkey.lab.tasks.base import Source, Splits, Task
from hiddenkey.lab.tasks.files import FileFaults, refuse
from hiddenkey.lab.tasks.generation import merge_references
from hiddenkey.lab.tasks.tables import Columns, read_rows, read_splits, spelling

_MOST_CLASSES: Final = 1000


def resolve(source: Source) -> Task:
    """Return the task that ``--task file`` means for this source."""
    if not source.regression:
        return FILE
    return replace(FILE, kind="regression", metrics=("pearson", "spearman"))


def _load_file(source: Source) -> Splits:
    train_file, eval_file = _files(source, "file")
    names = () if source.regression else source.label_names or _infer_labels(source, train_file)
    labels = None if source.regression else {name: index for index, name in enumerate(names)}
    columns = Columns(texts=source.text_columns, label=source.label_column, labels=labels)
    return Splits(*read_splits(train_file, eval_file, columns), names)


def _load_completion(source: Source) -> Splits:
    is_default = source.label_column == Source().label_column
    target = "completion" if is_default else source.label_column
    columns = Columns(source.text_columns or ("prompt",), target, is_text=True)
    train, evaluation = read_splits(*_files(source, "completion"), columns)
    return Splits(train, merge_references(evaluation))


def _files(source: Source, task: str) -> tuple[Path, Path]:
    if source.train_file is None or source.eval_file is None:
        raise ConfigError(f"--task {task} needs --train-file and --eval-file; give both")
    return Path(source.train_file), Path(source.eval_file)


def _infer_labels(source: Source, train_file: Path) -> tuple[str, ...]:
    """The distinct labels of the training file, numbers in their order, else alphabetical."""
    faults = FileFaults(train_file)
    needed = (*source.text_columns, source.label_column)
    rows = read_rows(train_file, needed, faults)
    found = {spelling(row.values[source.label_column]) for row in rows}
    if 2 <= len(found) <= _MOST_CLASSES:
        return tuple(sorted(found, key=int) if _all_whole(found) else sorted(found))
    if faults.found:  # too few labels may come from the broken rows alone
        of_eval = FileFaults(source.eval_file or train_file)
        read_rows(Path(of_eval.path), needed, of_eval)
        refuse(faults, of_eval)
    raise ConfigError(
        f"{train_file}: column {source.label_column!r} must hold 2 to {_MOST_CLASSES}"
        f" different labels, got {len(found)}; name another --label-column, give"
        " --label-names, or use --regression for scores"
    )


def _all_whole(names: set[str]) -> bool:
    return all(name.removeprefix("-").isdecimal() for name in names)


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
    summary="your own prompts and completions (columns 'prompt' and 'completion')",
    kind="generation",
    metrics=METRICS["e2e"],
    needs="files",
    load=_load_completion,
    family="e2e",
)
