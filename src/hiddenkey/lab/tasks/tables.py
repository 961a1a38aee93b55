"""Reading CSV, TSV, JSONL and Parquet files of labelled text, with the line of every fault.

CSV follows RFC 4180 (quotes, line breaks inside a field). TSV has no quoting, as in GLUE, whose
sentences hold unbalanced quotes. JSONL holds one object a line. These are UTF-8; of a Parquet file,
rows are counted instead of lines.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hiddenkey.lab.tasks.base import Example
from hiddenkey.lab.tasks.files import FileFaults, decode, read_bytes, refuse

FORMATS: Final = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Row:
    """One record and the line of the file on which it starts (in Parquet, its row from 1)."""

    line: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """How the rows of a file become examples.

    Attributes:
        texts: columns of the text or pair of texts.
        label: column of the label.
        labels: class index by the label's spelling; ``None`` for a score or a text.
        is_text: the label is a text to generate.
        score_range: smallest and largest score allowed.
        header: column names of a file without a header line; ``None`` reads the first line.
    """

    texts: tuple[str, ...]
    label: str
    labels: Mapping[str, int] | None = None
    score_range: tuple[float, float] = (-math.inf, math.inf)
    header: tuple[str, ...] | None = None
    is_text: bool = False


def read_splits(
    train_file: Path, eval_file: Path, columns: Columns
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Read the training and the evaluation file.

    Raises:
        ConfigError: with the faults of both files together.
    """
    faults = (FileFaults(train_file), FileFaults(eval_file))
    train = read_examples(train_file, columns, faults[0])
    evaluation = read_examples(eval_file, columns, faults[1])
    refuse(*faults)
    return train, evaluation


def read_examples(path: Path, columns: Columns, faults: FileFaults) -> tuple[Example, ...]:
    """Read one file; broken rows are left out and recorded in ``faults``."""
    rows = read_rows(path, (*columns.texts, columns.label), faults, columns.header)
    return to_examples(rows, columns, faults)


def to_examples(rows: Sequence[Row], columns: Columns, faults: FileFaults) -> tuple[Example, ...]:
    """Turn records into examples; broken ones are left out and recorded in ``faults``."""
    examples = []
    for row in rows:
        texts = tuple(row.values[name] for name in columns.texts)
        for name, text in zip(columns.texts, texts, strict=True):
            if not isinstance(text, str):
                faults.add(f"column {name!r} must hold text, got {text!r}; quote it", row.line)
            elif columns.is_text and not text.strip():
                faults.add(f"column {name!r} must hold text, got {text!r}; fill it in", row.line)
        label = _label(row.values[columns.label], row.line, columns, faults)
        if label is not None and all(isinstance(text, str) for text in texts):
            examples.append(Example(texts, label))
    return tuple(examples)


def read_rows(
    path: Path, needed: Sequence[str], faults: FileFaults, header: Sequence[str] | None = None
) -> list[Row]:
    """Read the records of a file that have every needed column."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        kinds = ", ".join(FORMATS)
        faults.add(f"must be one of {kinds}, got {path.suffix or 'no suffix'!r}; convert the file")
        return []
    raw = read_bytes(path, faults)
    if raw is None:
        return []
    before = len(faults.found)
    if suffix == ".parquet":
        rows = _parquet_rows(raw, needed, faults)
    elif (text := decode(raw, faults)) is None:
        rows = []
    elif suffix == ".jsonl":
        rows = _json_rows(text, needed, faults)
    else:
        rows = _table_rows(suffix, text, needed, faults, header)
    if not rows and len(faults.found) == before:
        faults.add("must hold at least one example, got none; give a file with rows")
    return rows


def spelling(value: object) -> str:
    """A label as it is spelled in a file; JSON's 1, true and "1" count as themselves."""
    return value if isinstance(value, str) else json.dumps(value)


def _table_rows(
    suffix: str, text: str, needed: Sequence[str], faults: FileFaults, header: Sequence[str] | None
) -> list[Row]:
    records = _records(suffix, text, faults)
    if header is None:
        first = next(records, None)
        if first is None:
            return []
        header = first[1]
    if _lacks_columns(header, needed, faults):
        return []
    rows = []
    for line, fields in records:
        if len(fields) != len(header):
            faults.add(f"must have {len(header)} fields, got {len(fields)}; fix the row", line)
        else:
            rows.append(Row(line, dict(zip(header, fields, strict=True))))
    return rows


def _records(suffix: str, text: str, faults: FileFaults) -> Iterator[tuple[int, list[str]]]:
    if suffix == ".tsv":
        # str.splitlines would also break at form feeds and Unicode separators inside a sentence
        for number, line in enumerate(text.split("\n"), start=1):
            if line.rstrip("\r"):
                yield number, line.rstrip("\r").split("\t")
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    try:
        for fields in reader:
            if fields:
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        faults.add(f"must be valid CSV ({error}); fix the quotes", start)


def _json_rows(text: str, needed: Sequence[str], faults: FileFaults) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            faults.add(f"must be one JSON object ({error.msg}); fix the line", number)
            continue
        if not isinstance(record, dict):
            faults.add(f"must be one JSON object, got {line.strip()[:40]!r}; fix the line", number)
        elif not _lacks_columns(list(record), needed, faults, number):
            rows.append(Row(number, record))
    return rows


def _parquet_rows(raw: bytes, needed: Sequence[str], faults: FileFaults) -> list[Row]:
    faults.unit = "row"
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError:
        faults.add("needs the package 'pyarrow', which is missing; run: pip install pyarrow")
        return []
    try:
        file = parquet.ParquetFile(io.BytesIO(raw))
        if _lacks_columns(file.schema_arrow.names, needed, faults):
            return []
        records = file.read(columns=list(dict.fromkeys(needed))).to_pylist()
    except (OSError, ArrowException) as error:
        faults.add(f"must be a Parquet file ({error}); write it again")
        return []
    return [Row(number, record) for number, record in enumerate(records, start=1)]


def _lacks_columns(
    present: Sequence[str], needed: Sequence[str], faults: FileFaults, line: int | None = None
) -> bool:
    missing = [name for name in needed if name not in present]
    for name in missing:
        faults.add(
            f"must have a column {name!r}, got {', '.join(map(repr, present)) or 'no columns'};"
            " name one of them or add it",
            line,
        )
    return bool(missing)


def _label(
    value: object, line: int, columns: Columns, faults: FileFaults
) -> int | float | str | None:
    if columns.is_text:
        if isinstance(value, str) and value.strip():
            return value
        faults.add(f"column {columns.label!r} must hold text, got {value!r}; fill it in", line)
        return None
    if columns.labels is not None:
        index = columns.labels.get(spelling(value))
        if index is None:
            allowed = ", ".join(columns.labels)
            faults.add(f"label must be one of {allowed}, got {value!r}; correct the row", line)
        return index
    low, high = columns.score_range
    try:
        score = float(spelling(value))
    except ValueError:
        score = math.nan
    if not (low <= score <= high and math.isfinite(score)):
        allowed = "a finite number" if math.isinf(high) else f"a number from {low:g} to {high:g}"
        faults.add(f"score must be {allowed}, got {value!r}; correct the row", line)
        return None
    return score
