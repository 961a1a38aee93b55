"""The texts of a file for which a trained model is to predict, and their labels if it has any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.run.leaving import Origin
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.tasks import Example
from hiddenkey.lab.tasks.chats import Form, find_form, read_conversations
from hiddenkey.lab.tasks.files import FileFaults, refuse
from hiddenkey.lab.tasks.glue import LAYOUTS
from hiddenkey.lab.tasks.tables import Columns, Row, column_names, read_rows, to_examples

_KINDS: Final = ("classification", "regression", "generation")
_UNKNOWN: Final = "unknown"


@dataclass(frozen=True)
class Texts:
    """What a file holds.

    Attributes:
        columns: names of the text columns.
        examples: one for each row.
        labelled: whether their labels are the file's; if not they mean nothing.
    """

    columns: tuple[str, ...]
    examples: tuple[Example, ...]
    labelled: bool


def read_texts(
    path: Path,
    origin: Origin,
    options: TrainOptions,
    text_columns: tuple[str, ...] = (),
    label_column: str | None = None,
) -> Texts:
    """Read a file as the training read its own.

    Args:
        path: a .csv, .tsv, .jsonl or .parquet file.
        origin: of the adapter.
        options: the training's settings.
        text_columns: in place of the training's.
        label_column: in place of the training's.

    Raises:
        ConfigError: with every fault of the file and of the columns' names.
    """
    if origin.kind not in _KINDS:
        raise ConfigError(
            f"predict is for adapters that do {', '.join(_KINDS)}, got one for {origin.kind};"
            " load it with the code of its README.md"
        )
    columns = _columns(origin, options, text_columns, label_column)
    if len(columns.texts) != origin.texts:
        raise ConfigError(
            f"text_columns must name as many columns as the model was trained on, {origin.texts},"
            f" got {', '.join(columns.texts)}; name them with --text-columns"
        )
    present = column_names(path)
    form = find_form(present) if origin.kind == "generation" and not label_column else None
    if form is not None and not {*columns.texts} <= {*present}:
        return _conversations(path, form)
    if label_column is not None and label_column not in present:
        raise ConfigError(
            f"label_column must be a column of {path}, got {label_column!r}; leave it out where the"
            " file has no labels"
        )
    faults = FileFaults(path)
    wanted = (*columns.texts, columns.label) if columns.label in present else columns.texts
    rows = list(read_rows(path, wanted, faults))
    labelled = any(row.values.get(columns.label) not in (None, "") for row in rows)
    if not labelled:
        rows = [Row(row.line, {**row.values, columns.label: _UNKNOWN}) for row in rows]
        columns = replace(columns, labels=None, is_text=False, is_open=True)
    examples = to_examples(rows, columns, faults)
    refuse(faults)
    return Texts(columns.texts, examples, labelled)


def _conversations(path: Path, form: Form) -> Texts:
    """Read conversations; where all end with an answer, these are the texts that are right."""
    faults = FileFaults(path)
    examples, _ = read_conversations(path, form, faults, is_open=True)
    refuse(faults)
    labelled = all(example.label for example in examples)
    return Texts(("prompt",), tuple(examples), labelled)


def _columns(
    origin: Origin, options: TrainOptions, texts: Sequence[str], label: str | None
) -> Columns:
    """How the rows of a file become examples of the training's kind."""
    if origin.kind == "generation":
        own = options.label_column
        target = "completion" if own == TrainOptions.label_column else own
        prompts = texts or options.text_columns or ("prompt",)
        return Columns(tuple(prompts), label or target, is_text=True)
    layout = LAYOUTS.get(options.task)
    names = {name: index for index, name in enumerate(origin.label_names)}
    if layout is None:
        used = texts or options.text_columns or ("text",)
        return Columns(tuple(used), label or options.label_column, names or None)
    known = {**(layout.columns.labels or {}), **names} or None
    used = texts or layout.columns.texts
    return replace(
        layout.columns,
        texts=tuple(used),
        label=label or layout.columns.label,
        labels=known,
        header=None,
    )
