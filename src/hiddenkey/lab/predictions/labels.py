"""Reading true and predicted labels of a GLUE task for scoring.

The references are the task's dev.tsv in the official layout. The predictions are plain text, one
label a line, or CSV, TSV or JSONL with a column of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.predictions.files import FORMATS, find_column
from hiddenkey.lab.tasks import TASKS, Example, Task
from hiddenkey.lab.tasks.files import FileFaults, read_text, refuse
from hiddenkey.lab.tasks.glue import LAYOUTS, Layout
from hiddenkey.lab.tasks.tables import Columns, Row, read_examples, read_rows, to_examples

_COLUMNS: Final = ("prediction", "label", "score", "output")


def glue_tasks() -> dict[str, Task]:
    """The tasks whose references are a file in GLUE's layout, by name."""
    return {name: TASKS[name] for name in LAYOUTS}


def read_labels(task: Task, references: Path, outputs: Path) -> tuple[list[Any], list[Any]]:
    """Read both files; return true and predicted class indices or scores, in the same order.

    Raises:
        ConfigError: with the faults of both files, or if their lengths differ.
    """
    layout = LAYOUTS.get(task.name)
    if layout is None:
        raise ValueError(f"task must be one of {', '.join(glue_tasks())}, got {task.name!r}")
    of_references, of_outputs = FileFaults(references), FileFaults(outputs)
    true = read_examples(references, layout.columns, of_references)
    predicted = _read_predictions(layout, outputs, of_outputs)
    refuse(of_references, of_outputs)
    if len(true) != len(predicted):
        raise ConfigError(
            f"{outputs}: must hold one label for each of the {len(true)} rows of {references}, got"
            f" {len(predicted)}; give as many labels, in the same order"
        )
    return [example.label for example in true], [example.label for example in predicted]


def _read_predictions(layout: Layout, path: Path, faults: FileFaults) -> tuple[Example, ...]:
    rows = _rows(path, faults)
    column = find_column(list(rows[0].values), _COLUMNS, "labels", faults) if rows else None
    if column is None:
        return ()
    columns = Columns((), column, _spellings(layout))
    return to_examples([row for row in rows if column in row.values], columns, faults)


def _rows(path: Path, faults: FileFaults) -> list[Row]:
    if path.suffix.lower() in FORMATS:
        return read_rows(path, (), faults)
    text = read_text(path, faults)
    lines = [] if text is None else text.rstrip().splitlines()
    return [Row(number, {"label": line.strip()}) for number, line in enumerate(lines, start=1)]


def _spellings(layout: Layout) -> dict[str, int] | None:
    """A class may be given as in the files, by its name or by its index."""
    if layout.columns.labels is None:
        return None
    names = {name: index for index, name in enumerate(layout.label_names)}
    indices = {str(index): index for index in names.values()}
    return {**layout.columns.labels, **names, **indices}
