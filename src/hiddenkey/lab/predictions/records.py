"""Rows of CSV, TSV and JSONL files of references or outputs, whatever their columns are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hiddenkey.lab.tasks.files import FileFaults
from hiddenkey.lab.tasks.tables import Row, read_rows

FORMATS: Final = (".csv", ".tsv", ".jsonl")
SOURCES: Final = ("mr", "source", "prompt", "input", "context")
REFERENCES: Final = ("references", "reference", "ref", "target", "completion", "text")
OUTPUTS: Final = ("output", "prediction", "hypothesis", "generated", "completion", "ref", "text")
CATEGORY: Final = "category"


@dataclass(frozen=True)
class Record:
    """One row.

    Attributes:
        line: where it starts.
        texts: its text, or the texts of a JSON list.
        source: what the text expresses, where the file says it.
        category: WebNLG's, where the file says it.
        listed: whether the texts were a list.
    """

    line: int
    texts: tuple[str, ...]
    source: str | None = None
    category: str | None = None
    listed: bool = False


def read_records(path: Path, names: Sequence[str], faults: FileFaults) -> list[Record]:
    """Read the rows of a file that has a column of one of these names, in any case.

    A file with a single column besides that of the source needs no such name.
    """
    rows = [Row(row.line, _lower(row.values)) for row in read_rows(path, (), faults)]
    if not rows:
        return []
    present = list(rows[0].values)
    column = _text_column(present, names)
    if column is None:
        faults.add(
            f"must have a column {' or '.join(map(repr, names))}, got"
            f" {', '.join(map(repr, present))}; rename the column of the texts"
        )
        return []
    source = next((name for name in SOURCES if name in present), None)
    records = []
    for row in rows:
        value = row.values.get(column)
        texts: list[Any] = value if isinstance(value, list) else [value]
        if not texts or not all(isinstance(text, str) for text in texts):
            faults.add(f"column {column!r} must hold text, got {value!r}; fix the row", row.line)
            continue
        records.append(
            Record(
                row.line,
                tuple(texts),
                _text(row, source),
                _text(row, CATEGORY),
                isinstance(value, list),
            )
        )
    return records


def _lower(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.strip().lower(): value for name, value in values.items()}


def _text_column(present: Sequence[str], names: Sequence[str]) -> str | None:
    for name in names:
        if name in present:
            return name
    others = [name for name in present if name not in (*SOURCES, CATEGORY)]
    return others[0] if len(others) == 1 else None


def _text(row: Row, column: str | None) -> str | None:
    value = None if column is None else row.values.get(column)
    return value if isinstance(value, str) else None
