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
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.tasks.base import Example
from hiddenkey.lab.tasks.classes import near, open_spelling, spelling
from hiddenkey.lab.tasks.files import FileFaults, decode, read_bytes, refuse

TABLE_ENDINGS: Final = (".csv", ".tsv", ".jsonl", ".parquet")
_SEPARATORS: Final = {".csv": ",", ".tsv": "\t"}
_IN_WORDS: Final = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_LONGEST_FIELD: Final = 2**31 - 1
"""Characters of a CSV field; Python's own limit of 131,072 is shorter than some documents."""
_HALF_PAIR: Final = re.compile(r"\\u[dD][89a-fA-F]")
_ROWS_AT_ONCE: Final = 1024


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
        is_open: the label may name any class, and the example's label is that name.
        score_range: smallest and largest score allowed.
        header: column names of a file without a header line; ``None`` reads the first line.
    """

    texts: tuple[str, ...]
    label: str
    labels: Mapping[str, int] | None = None
    score_range: tuple[float, float] = (-math.inf, math.inf)
    header: tuple[str, ...] | None = None
    is_text: bool = False
    is_open: bool = False


def read_splits(
    train_file: Path, eval_file: Path | None, columns: Columns
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Read the training and the evaluation file; no file has no examples.

    Raises:
        ConfigError: with the faults of both files together.
    """
    faults = (FileFaults(train_file), FileFaults(eval_file or ""))
    train = read_examples(train_file, columns, faults[0])
    evaluation = read_examples(eval_file, columns, faults[1]) if eval_file else ()
    refuse(*faults)
    return train, evaluation


def read_examples(path: Path, columns: Columns, faults: FileFaults) -> tuple[Example, ...]:
    """Read one file; broken rows are left out and recorded in ``faults``."""
    rows = read_rows(path, (*columns.texts, columns.label), faults, columns.header)
    return to_examples(rows, columns, faults)


def to_examples(rows: Iterable[Row], columns: Columns, faults: FileFaults) -> tuple[Example, ...]:
    """Turn records into examples; broken ones are left out and recorded in ``faults``."""
    examples = []
    for row in rows:
        texts = tuple(row.values[name] for name in columns.texts)
        for name, text in zip(columns.texts, texts, strict=True):
            if not isinstance(text, str):
                faults.add(f"column {name!r} must hold text, got {text!r}; quote it", row.line)
            elif not text.strip() and (columns.is_text or len(texts) == 1):
                faults.add(f"column {name!r} must hold text, got {text!r}; fill it in", row.line)
        try:
            label = _label(row.values[columns.label], columns)
        except ConfigError as error:
            faults.add(str(error), row.line)
            continue
        if all(isinstance(text, str) for text in texts):
            examples.append(Example(texts, label))
    return tuple(examples)


def read_rows(
    path: Path, needed: Sequence[str], faults: FileFaults, header: Sequence[str] | None = None
) -> Iterator[Row]:
    """Yield the records of a file that have every needed column; none: all columns.

    The file's text is in memory, its rows are not.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_ENDINGS:
        kinds = ", ".join(TABLE_ENDINGS)
        faults.add(f"must be one of {kinds}, got {path.suffix or 'no suffix'!r}; convert the file")
        return
    raw = read_bytes(path, faults)
    if raw is None:
        return
    count, before = 0, len(faults.found)
    rows: Iterable[Row] = ()
    if suffix == ".parquet":
        rows = _parquet_rows(raw, needed, faults)
    elif decode(raw, faults) is not None:
        of_text = _json_rows if suffix == ".jsonl" else partial(_table_rows, (suffix, header))
        rows = of_text(raw, needed, faults)
    for count, row in enumerate(rows, start=1):  # noqa: B007
        if faults.is_full:
            break
        yield row
    if not count and len(faults.found) == before:
        faults.add("must hold at least one example, got none; give a file with rows")


def column_names(path: Path) -> tuple[str, ...]:
    """Return the columns of the first row that can be read; none of a broken file."""
    first = next(read_rows(path, (), FileFaults(path)), None)
    return () if first is None else tuple(first.values)


def _table_rows(
    kind: tuple[str, Sequence[str] | None], raw: bytes, needed: Sequence[str], faults: FileFaults
) -> Iterator[Row]:
    suffix, header = kind
    records = _records(suffix, raw, faults)
    if header is None:
        start, header = next(records, (0, None))
        if header is not None and (fault := _odd_header(suffix, header, needed)):
            faults.add(fault, start)
            return
    if header is None or _lacks_columns(header, needed, faults):
        return
    for line, fields in records:
        if len(fields) != len(header):
            faults.add(f"must have {len(header)} fields, got {len(fields)}; fix the row", line)
        else:
            yield Row(line, dict(zip(header, fields, strict=True)))


def _odd_header(suffix: str, header: Sequence[str], needed: Sequence[str]) -> str:
    """What the first line is instead of names of columns, as spreadsheets save them; else empty."""
    first = header[0]
    if first.lower().startswith("sep="):
        return f"must name the columns, got Excel's {first!r}; delete the line"
    own = _SEPARATORS[suffix]
    other = next((each for each in _IN_WORDS if each != own and each in first), None)
    if len(header) > 1 or first in needed or other is None:
        return ""
    fitting = next((kind for kind, each in _SEPARATORS.items() if each == other), None)
    step = f"name the file {fitting}" if fitting else f"save it with {_IN_WORDS[own]}"
    return f"must have {_IN_WORDS[own]} between its columns, got {_IN_WORDS[other]}; {step}"


def _records(suffix: str, raw: bytes, faults: FileFaults) -> Iterator[tuple[int, list[str]]]:
    if suffix == ".tsv":
        for number, line in _lines(raw):
            if line.rstrip("\r"):
                yield number, line.rstrip("\r").split("\t")
        return
    csv.field_size_limit(_LONGEST_FIELD)
    text = io.TextIOWrapper(io.BytesIO(raw), "utf-8-sig", newline="")
    reader = csv.reader(text, strict=True)
    start = 1
    try:
        for fields in reader:
            if fields:
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        faults.add(f"must be valid CSV ({error}); fix the quotes", start)


def _lines(raw: bytes) -> Iterator[tuple[int, str]]:
    # str.splitlines would also break at form feeds and Unicode separators inside a sentence
    end = "\n" if b"\n" in raw else "\r"  # alone, as old Macs ended lines
    text = io.TextIOWrapper(io.BytesIO(raw), "utf-8-sig", newline=end)
    return enumerate((line.removesuffix(end) for line in text), start=1)


def _json_rows(raw: bytes, needed: Sequence[str], faults: FileFaults) -> Iterator[Row]:
    for number, line in _lines(raw):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_without_doubles)
            if _HALF_PAIR.search(line):
                json.dumps(record, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", getattr(error, "reason", error))
            faults.add(f"must be one JSON object ({reason}); fix the line", number)
            continue
        if not isinstance(record, dict):
            faults.add(f"must be one JSON object, got {line.strip()[:40]!r}; fix the line", number)
        elif not _lacks_columns(list(record), needed, faults, number):
            yield Row(number, record)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _parquet_rows(raw: bytes, needed: Sequence[str], faults: FileFaults) -> Iterator[Row]:
    faults.unit = "row"
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        faults.add("needs the package 'pyarrow', which is missing; run: pip install pyarrow")
        return
    number = None
    try:
        file = parquet.ParquetFile(io.BytesIO(raw))
        if _lacks_columns(file.schema_arrow.names, needed, faults):
            return
        batches = file.iter_batches(_ROWS_AT_ONCE, columns=list(dict.fromkeys(needed)) or None)
        records = (record for batch in batches for record in batch.to_pylist())
        for number, record in enumerate(records, start=1):
            yield Row(number, record)
    except Exception as error:  # a damaged file makes pyarrow raise nearly anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        faults.add(f"must be a whole Parquet file ({reason}); write it again", number)


def _lacks_columns(
    present: Sequence[str], needed: Sequence[str], faults: FileFaults, line: int | None = None
) -> bool:
    counts = Counter(present)
    got = ", ".join(map(repr, present)) or "no columns"
    wrong = [name for name in needed or filter(None, counts) if counts[name] != 1]
    for name in wrong:
        rule, step = ("one", "rename the others") if counts[name] else ("a", "name one or add it")
        faults.add(f"must have {rule} column {name!r}, got {got}; {step}", line)
    return bool(wrong)


def _label(value: object, columns: Columns) -> int | float | str:
    """The label of an example; raises ConfigError with the rule that it breaks."""
    if columns.is_text:
        if isinstance(value, str) and value.strip():
            return value
        raise ConfigError(f"column {columns.label!r} must hold text, got {value!r}; fill it in")
    try:
        name = open_spelling(value) if columns.is_open else spelling(value)
    except ConfigError as error:
        name, reason = "", str(error)
    if columns.is_open:
        if name:
            return name
        rule = f"column {columns.label!r} must hold a label, got {value!r}, which {reason}"
        raise ConfigError(rule)
    labels = columns.labels
    if labels is not None:
        if name in labels:
            return labels[name]
        hint = near(name, labels) or "; correct the row"
        raise ConfigError(f"label must be one of {', '.join(labels)}, got {value!r}{hint}")
    low, high = columns.score_range
    try:
        score = math.nan if "_" in name else float(name)  # Python alone reads 1_000
    except ValueError:
        score = math.nan
    if low <= score <= high and math.isfinite(score):
        return score
    allowed = "a finite number" if math.isinf(high) else f"a number from {low:g} to {high:g}"
    raise ConfigError(f"score must be {allowed}, got {value!r}; correct the row")
