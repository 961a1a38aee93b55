"""Rows of CSV, TSV and JSONL files of references or outputs, whatever their columns are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hiddenkey.lab.tasks.files import FileFaults
from hiddenkey.lab.tasks.tables import Row, read_rows
from hiddenkey.lab.tasks.webnlg import SEEN_CATEGORIES

FORMATS: Final = (".csv", ".tsv", ".jsonl")
SOURCES: Final = ("mr", "source", "prompt", "input", "context")
REFERENCES: Final = ("references", "reference", "ref", "target", "completion", "text")
OUTPUTS: Final = ("output", "prediction", "hypothesis", "generated", "completion", "ref", "text")
CATEGORY: Final = "category"


@dataclass(frozen=True)
class Record:
    """A row of a file, or what one output is compared with.

    Attributes:
        texts: one text or more.
        line: where it starts.
        source: what the text expresses, where the file says it.
        category: WebNLG's, where the file says it.
        listed: whether the texts were a list.
    """

    texts: tuple[str, ...]
    line: int = 0
    source: str | None = None
    category: str | None = None
    listed: bool = False

    @property
    def seen(self) -> bool | None:
        """Whether its category occurs in WebNLG's training set, if it has one."""
        return None if self.category is None else self.category in SEEN_CATEGORIES


def read_records(path: Path, names: Sequence[str], faults: FileFaults) -> list[Record]:
    """Read the rows of a file that has a column of one of these names, in any case.

    A file with a single column besides that of the source needs no such name.
    """
    rows = [Row(row.line, _lower(row.values)) for row in read_rows(path, (), faults)]
    if not rows:
        return []
    present = list(rows[0].values)
    others = [name for name in present if name not in (*SOURCES, CATEGORY)]
    column = find_column(present, names, "texts", faults, others[0] if len(others) == 1 else None)
    if column is None:
        return []
    source = next((name for name in SOURCES if name in present), None)
    records = []
    for row in rows:
        value = row.values.get(column)
        texts: list[Any] = value if isinstance(value, list) else [value]
        if not texts or not all(isinstance(text, str) for text in texts):
            faults.add(f"column {column!r} must hold text, got {value!r}; fix the row", row.line)
            continue
        about = (_text(row, source), _text(row, CATEGORY))
        records.append(Record(tuple(texts), row.line, *about, isinstance(value, list)))
    return records


def find_column(
    present: Sequence[str],
    names: Sequence[str],
    what: str,
    faults: FileFaults,
    otherwise: str | None = None,
) -> str | None:
    """Return the first of these names that is present, or another one, or record the fault."""
    found = next((name for name in names if name in present), otherwise)
    if found is None:
        faults.add(
            f"must have a column {' or '.join(map(repr, names))}, got"
            f" {', '.join(map(repr, present))}; rename the column of the {what}"
        )
    return found


def _lower(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.strip().lower(): value for name, value in values.items()}


def _text(row: Row, column: str | None) -> str | None:
    value = None if column is None else row.values.get(column)
    return value if isinstance(value, str) else None
