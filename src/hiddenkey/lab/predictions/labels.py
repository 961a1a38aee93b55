"""Reading true and predicted labels of a GLUE task for scoring.

The references are the task's dev.tsv in the official layout. The predictions are plain text, one
label a line, or CSV, TSV or JSONL with a column of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from hiddenkey.lab.predictions.columns import SOURCES, Picked, plain
from hiddenkey.lab.predictions.records import (
    NUMBERS,
    TextRecord,
    match_records,
    read_outputs,
    to_records,
)
from hiddenkey.lab.tasks import TASKS, Task
from hiddenkey.lab.tasks.files import FileFaults, refuse
from hiddenkey.lab.tasks.glue import LAYOUTS, GlueLayout
from hiddenkey.lab.tasks.tables import Columns, Row, read_rows, to_examples

_TEXTS: Final = ("sentence", "sentence1", "sentence2", "premise", "hypothesis", "text", *SOURCES)


@dataclass(frozen=True)
class Labels:
    """True and predicted class indices or scores in the same order, and their columns."""

    true: list[Any]
    predicted: list[Any]
    taken: Picked


def glue_tasks() -> dict[str, Task]:
    """The tasks whose references are a file in GLUE's layout, by name."""
    return {name: TASKS[name] for name in LAYOUTS}


def read_labels(task: Task, references: Path, outputs: Path, given: Picked | None = None) -> Labels:
    """Read a file in the task's layout and one of outputs, and match them as texts are matched.

    Raises:
        ConfigError: with the faults of both files, or if they do not fit together.
    """
    layout = LAYOUTS.get(task.name)
    if layout is None:
        raise ValueError(f"task must be one of {', '.join(glue_tasks())}, got {task.name!r}")
    given = given or Picked()
    faults = FileFaults(references), FileFaults(outputs)
    columns, spellings = layout.columns, Columns((), "label", _spellings(layout))
    if len(given.references) > 1:
        faults[0].add("must have one label a row, got several --reference-column; name one")
    if given.references:  # a file of another layout
        columns = replace(columns, texts=(), label=given.references[0], header=None)
    about = (*map(plain, columns.texts), *_TEXTS, *(() if columns.labels is None else NUMBERS[:1]))
    needed = *columns.texts, columns.label
    rows = list(read_rows(references, needed, faults[0], columns.header))
    true = [example.label for example in to_examples(rows, columns, faults[0])]
    theirs = to_records(rows, (columns.label,), about, given, faults[0])
    column, ours = read_outputs(outputs, given, about, faults[1])
    if column is None:
        while ours and not ours[-1].texts[0]:
            ours.pop()
    _labels(ours, spellings, faults[1])
    refuse(*faults)

    def agrees(one: str, other: str) -> bool:
        found = [_labels([TextRecord((text,))], spellings, FileFaults("")) for text in (one, other)]
        return not found[0] or math.isclose(*found[0], *found[1], rel_tol=1e-4, abs_tol=1e-4)

    taken = column, (columns.label,)
    ordered, choice = match_records(theirs, ours, agrees, (references, outputs), taken)
    return Labels(true, _labels(ordered, spellings, faults[1]), choice)


def _labels(records: Sequence[TextRecord], columns: Columns, faults: FileFaults) -> list[Any]:
    rows = [Row(record.line, {columns.label: record.texts[0]}) for record in records]
    return [example.label for example in to_examples(rows, columns, faults)]


def _spellings(layout: GlueLayout) -> Mapping[str, int] | None:
    """A class may be given as in the files, by its name or by its index."""
    if layout.columns.labels is None:
        return None
    names = {name: index for index, name in enumerate(layout.label_names)}
    indices = {str(index): index for index in names.values()}
    return {**layout.columns.labels, **names, **indices}
