"""Rows of files as records, and the outputs that answer the references.

A table is CSV, TSV, JSONL or Parquet; other files are plain text.
"""

from __future__ import annotations

import filecmp
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.predictions.columns import (
    IDENTIFIERS,
    Picked,
    match,
    plain,
    prediction_column,
    truths,
)
from hiddenkey.lab.tasks.files import FileFaults, read_text, refuse
from hiddenkey.lab.tasks.tables import TABLE_ENDINGS, Row, read_rows

NUMBERS: Final = ("score", "size")
_JSON: Final = re.compile(r"\[?\s*\{\s*\"|\[$")
_LIST: Final = re.compile(r"\[\s*(['\"].*)?\]", re.DOTALL)
_LINE_END: Final = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True)
class TextRecord:
    """A row of a file, or what one output is compared with.

    Attributes:
        texts: one text or more.
        line: where it starts.
        sources: what the text expresses or answers, where the file says it.
        category: WebNLG's, where the file says it.
        identifiers: of the row, by column.
        truth: what a file of outputs says is right.
    """

    texts: tuple[str, ...]
    line: int = 0
    sources: tuple[str, ...] = ()
    category: str | None = None
    identifiers: Mapping[str, str] = field(default_factory=dict)
    truth: tuple[str, ...] = ()


def read_outputs(
    path: Path, given: Picked, about: Sequence[str], faults: FileFaults
) -> tuple[str | None, list[TextRecord]]:
    """Return the column of predictions, if there are columns, and a record for each row.

    Columns named in ``about`` are neither prediction nor truth.
    """
    rows = read_table(path, faults)
    if rows is None:
        if given.prediction or given.identifier:
            faults.add("must be a table to choose a column of, got plain text; name no column")
        lines = enumerate(read_lines(path, faults), start=1)
        return None, [TextRecord((line,), number) for number, line in lines]
    present = columns_of(rows)
    column = prediction_column(present, about, given.prediction, faults) if rows else None
    if column is None:
        return None, []
    if given.identifier not in (None, *present):
        faults.add(f"must have a column {given.identifier!r}; give another --id-column")
    right = truths(present, about, column)
    records = to_records(rows, (column,), about, given, faults, right)
    for record in records:
        if len(record.texts) > 1:
            faults.add(f"must hold one output, got {len(record.texts)}; keep one", record.line)
    if records and with_lists(records, path) == records:
        faults.add(f"column {column!r} must hold texts, got only lists; take them out of the lists")
    return column, records


def read_table(path: Path, faults: FileFaults) -> list[Row] | None:
    """Return the rows of a table, none where faults were recorded, ``None`` for another file."""
    return list(read_rows(path, (), faults)) if path.suffix.lower() in TABLE_ENDINGS else None


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The columns that any row has, in their order."""
    return list(dict.fromkeys(name for row in rows for name in row.values))


def read_lines(path: Path, faults: FileFaults) -> list[str]:
    """Return the lines of plain text, or record that there is none or that it is a table."""
    text = read_text(path, faults)
    lines = [] if text is None else [line.strip() for line in _LINE_END.split(text)]
    if lines and not lines[-1]:
        lines.pop()  # the end of the last line
    if text is not None and not any(lines):
        faults.add("must hold text, got only white space; check the path")
    if lines and _JSON.match(lines[0]):
        faults.add("must be plain text, got JSON; name a file with one object a line .jsonl")
    if any(lines) and all("\t" in line for line in lines if line):
        faults.add("must be plain text, got columns with tabs between; name the file .tsv")
    return lines


def to_records(
    rows: Sequence[Row],
    columns: Sequence[str],
    about: Sequence[str],
    given: Picked,
    faults: FileFaults,
    truth: Sequence[str] = (),
) -> list[TextRecord]:
    """Turn rows into records of the texts in some columns, and leave out rows without any."""
    present = {plain(name): name for name in columns_of(rows)}
    others = {key: name for key, name in present.items() if name not in columns}
    sources = [others[key] for key in about if key in others and key not in NUMBERS]
    names = [others[key] for key in IDENTIFIERS if key in others]
    if given.identifier in columns_of(rows):
        names = [str(given.identifier)]
    records = []
    for row in rows:
        cells = [row.values.get(name) for name in columns]
        texts = [text for cell in cells for text in _texts(cell)]
        if len(columns) > 1:  # a row may have fewer than the most
            texts = [text for text in texts if text is None or text.strip()]
        category = row.values.get(present.get("category", ""))
        record = TextRecord(
            tuple(text for text in texts if text is not None),
            row.line,
            _written(row, sources),
            category if isinstance(category, str) else None,
            {plain(name): _identifier(row.values.get(name)) for name in names},
            _written(row, truth),
        )
        if texts and len(record.texts) == len(texts):
            records.append(record)
        else:
            faults.add(f"column {columns[0]!r} must hold text, got {cells[0]!r}; fix it", row.line)
    return records


def match_records(
    instances: Sequence[TextRecord],
    found: Sequence[TextRecord],
    agrees: Callable[[str, str], bool],
    paths: tuple[Path, Path],
    columns: tuple[str | None, tuple[str, ...]],
) -> tuple[list[TextRecord], Picked]:
    """Return the outputs in the references' order, and the columns that were taken.

    Args:
        instances: what is to be answered.
        found: the outputs.
        agrees: says whether a text that the outputs call right is one of the references'.
        paths: of the references and of the outputs.
        columns: of the prediction and of the references, where the files have columns.

    Raises:
        ConfigError: if the outputs are the references themselves, or a table that is their copy, or
            if their numbers, identifiers, sources or truths differ.
    """
    column, theirs = columns
    is_copy = column is not None and filecmp.cmp(*paths, shallow=False)
    if (column is None or column in theirs) and (is_copy or paths[0].samefile(paths[1])):
        raise ConfigError(f"{paths[1]}: must hold a model's outputs, got the references themselves")
    if len(instances) != len(found):
        raise ConfigError(
            f"{paths[1]}: must hold one output for each of the {len(instances)} instances of"
            f" {paths[0]}, got {len(found)}; give as many outputs, in the same order"
        )
    faults = FileFaults(paths[1])
    known, ours = instances[0].identifiers, found[0].identifiers
    by = next((name for name in ours if name in known), next(iter(ours), None))
    if by is not None:
        name = by if by in known else next(iter(known), "")
        expected = [record.identifiers.get(name) for record in instances]
        order = match(expected, [record.identifiers[by] for record in found], faults)
        found = [found[index] for index in order]
    refuse(faults)
    for instance, output in zip(instances, found, strict=True):
        if fault := _mismatch(instance, output, agrees):
            faults.add(fault, output.line)
    refuse(faults)
    return list(found), Picked(column, theirs, by)


def _mismatch(instance: TextRecord, output: TextRecord, agrees: Callable[[str, str], bool]) -> str:
    """Why an output does not answer an instance; one's sources may be a part of the other's."""
    theirs, ours = (list(map(_bare, record.sources)) for record in (instance, output))
    is_part = all(text in " ".join(ours) for text in theirs)
    if theirs and ours and not is_part and not all(text in " ".join(theirs) for text in ours):
        return (
            f"must answer the references' instances in their order, expected"
            f" {instance.sources[0]!r}, got {output.sources[0]!r}; sort the outputs"
        )
    pairs = product(output.truth, instance.texts)
    if not output.truth or any(agrees(truth, text) for truth, text in pairs):
        return ""
    return (
        f"says that {output.truth[0]!r} is right, the references say {instance.texts[0]!r}; put the"
        " rows into their order, choose another --prediction-column, or delete the column"
    )


def same_words(one: str, other: str) -> bool:
    """Whether two texts have the same letters and digits."""
    return _bare(one) == _bare(other)


def _bare(text: str) -> str:
    """The letters and digits of a text, in lower case; all of it where there is none."""
    return "".join(filter(str.isalnum, text.casefold())) or text.strip()


def with_lists(records: Sequence[TextRecord], path: Path) -> list[TextRecord]:
    """The records of CSV and TSV that hold a list in quotes, where one text is to be."""
    is_plain = path.suffix.lower() in TABLE_ENDINGS[:2]
    return [r for r in records if is_plain and any(_LIST.fullmatch(t.strip()) for t in r.texts)]


def _texts(cell: Any) -> list[str | None]:
    """The texts of a cell, a number as it is written; ``None`` for what is neither."""
    if isinstance(cell, list):
        return [text if isinstance(text, str) else None for text in cell]
    is_number = isinstance(cell, int | float) and cell == cell
    return [json.dumps(cell) if is_number else cell if isinstance(cell, str) else None]


def _written(row: Row, columns: Sequence[str]) -> tuple[str, ...]:
    texts = [text for name in columns for text in _texts(row.values.get(name))]
    return tuple(text for text in texts if text is not None and text.strip())


def _identifier(value: Any) -> str:
    """An identifier as text, the same for 1, 1.0, ``"1"`` and ``"1.0"``."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return re.sub(r"^(-?\d+)\.0$", r"\1", text.strip())
