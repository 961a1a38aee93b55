"""The user's own CSV, TSV, JSONL or Parquet files."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.tasks.base import Source, Splits, Task
from hiddenkey.lab.tasks.faults import FileFaults
from hiddenkey.lab.tasks.tables import Columns, read_rows, read_splits, spelling

_MOST_CLASSES: Final = 1000


def resolve(source: Source) -> Task:
    """Return the task that ``--task file`` means for these files and columns."""
    if not source.regression:
        return replace(FILE, text_columns=source.text_columns, label_column=source.label_column)
    return replace(
        FILE,
        kind="regression",
        metrics=("pearson", "spearman"),
        text_columns=source.text_columns,
        label_column=source.label_column,
    )


def _load(source: Source) -> Splits:
    if source.train_file is None or source.eval_file is None:
        raise ConfigError("--task file needs --train-file and --eval-file; give both")
    names = () if source.regression else source.label_names or _infer_labels(source)
    labels = None if source.regression else {name: index for index, name in enumerate(names)}
    columns = Columns(texts=source.text_columns, label=source.label_column, labels=labels)
    train, evaluation = read_splits(source.train_file, source.eval_file, columns)
    return Splits(train, evaluation, names)


def _infer_labels(source: Source) -> tuple[str, ...]:
    """The distinct labels of the training file, numbers in their order, else alphabetical."""
    assert source.train_file is not None
    faults = FileFaults(source.train_file)
    needed = (*source.text_columns, source.label_column)
    rows = read_rows(source.train_file, needed, faults)
    found = {spelling(row.values[source.label_column]) for row in rows}
    if 2 <= len(found) <= _MOST_CLASSES:
        return tuple(sorted(found, key=int) if _all_whole(found) else sorted(found))
    if faults.found:  # too few labels may come from the broken rows alone
        path = source.eval_file or source.train_file
        of_eval = FileFaults(path)
        read_rows(path, needed, of_eval)
        raise ConfigError([*faults.shown(), *of_eval.shown()])
    raise ConfigError(
        f"{source.train_file}: column {source.label_column!r} must hold 2 to {_MOST_CLASSES}"
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
    load=_load,
)
