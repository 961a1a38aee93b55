"""Rows of files as records, and the outputs that answer the references.

A table is CSV, TSV, JSONL or Parquet; other files are plain text.
"""

from __future__ import annotations

import ast
import filecmp
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.predictions.columns import (
    IDENTIFIERS,
    Choice,
    columns_of,
    identifier,
    match,
    plain,
    prediction_column,
    truths,
    with_text,
)
from hiddenkey.lab.tasks import webnlg
from hiddenkey.lab.tasks.files import FileFaults, read_text, refuse
from hiddenkey.lab.tasks.tables import FORMATS, Row, read_rows

NUMBERS: Final = ("score", "size")
_JSON: Final = re.compile(r"\[?\s*\{\s*\"|\[$")
_LIST: Final = re.compile(r"\[\s*(?:['\"].*)?\]$", re.DOTALL)
_ARRAY: Final = re.compile(r"""['"]\s+['"]""")
_LINE_END: Final = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True)
class Record:
    """A row of a file, or what one output is compared with.

    Attributes:
        texts: one text or more.
        line: where it starts.
        sources: what the text expresses or answers, where the file says it.
        category: WebNLG's, where the file says it.
        listed: whether the texts were a list.
        identifiers: of the row, by column.
        truth: what a file of outputs says is right.
    """

    texts: tuple[str, ...]
    line: int = 0
    sources: tuple[str, ...] = ()
    category: str | None = None
    listed: bool = False
    identifiers: Mapping[str, str] = field(default_factory=dict)
    truth: tuple[str, ...] = ()

    @property
    def seen(self) -> bool | None:
        """Whether its category occurs in WebNLG's training set, if it has one."""
        return None if self.category is None else self.category in webnlg.SEEN_CATEGORIES


def read_outputs(
    path: Path, given: Choice, about: Sequence[str], faults: FileFaults, *, labels: bool = False
) -> tuple[str | None, list[Record]]:
    """Return the column of predictions, if there are columns, and a record for each row.

    Columns named in ``about`` are neither prediction nor truth. A label may also be a number.
    """
    rows = read_table(path, faults)
    if rows is None:
        if given.prediction or given.identifier:
            faults.add("must be a table to choose a column of, got plain text; name no column")
        lines = enumerate(read_lines(path, faults), start=1)
        return None, [Record((line,), number) for number, line in lines]
    present = columns_of(rows)
    column = prediction_column(present, about, given.prediction, faults) if rows else None
    if column is None:
        return None, []
    if given.identifier not in (None, *present):
        faults.add(f"must have a column {given.identifier!r}; give another --id-column")
    if labels:
        rows = with_text(rows)
    right = truths(present, about, column)
    return column, to_records(rows, (column,), about, given, faults, right)


def read_lines(path: Path, faults: FileFaults) -> list[str]:
    """Return the lines of plain text, or record that there is none or that it is a table."""
    text = read_text(path, faults)
    lines = [] if text is None else [line.strip() for line in _LINE_END.split(text)]
    if lines and not lines[-1]:
        lines.pop()  # the end of the last line
    if lines and _JSON.match(lines[0]):
        faults.add("must be plain text, got JSON; name a file with one object a line .jsonl")
    if lines and all("\t" in line for line in lines if line):
        faults.add("must be plain text, got columns with tabs between; name the file .tsv")
    return lines


def refuse_same(references: Path, outputs: Path, *, is_table: bool) -> None:
    """Refuse outputs that are the references themselves, or a table that is their copy.

    Raises:
        ConfigError: if they are.
    """
    is_copy = is_table and filecmp.cmp(references, outputs, shallow=False)
    if is_copy or references.samefile(outputs):
        raise ConfigError(f"{outputs}: must hold a model's outputs, got the references themselves")


def match_records(
    instances: Sequence[Record],
    found: Sequence[Record],
    agrees: Callable[[str, Record], bool],
    paths: tuple[Path, Path],
) -> tuple[list[Record], str | None]:
    """Return the outputs in the references' order, and the column of identifiers that gave it.

    ``agrees`` says whether a text that the outputs call right is that of an instance.

    Raises:
        ConfigError: if their numbers, identifiers, sources or truths differ.
    """
    if len(instances) != len(found):
        raise ConfigError(
            f"{paths[1]}: must hold one output for each of the {len(instances)} instances of"
            f" {paths[0]}, got {len(found)}; give as many outputs, in the same order"
        )
    faults = FileFaults(paths[1])
    theirs, ours = instances[0].identifiers, found[0].identifiers
    by = next((name for name in ours if name in theirs), next(iter(ours), None))
    if by is not None:
        name = by if by in theirs else next(iter(theirs), "")
        known = [record.identifiers.get(name) for record in instances]
        names = [record.identifiers[by] for record in found]
        found = [found[index] for index in match(known, names, faults)]
    refuse(faults)
    _check_sources(instances, found, faults)
    for instance, output in zip(instances, found, strict=True):
        if output.truth and not any(agrees(truth, instance) for truth in output.truth):
            faults.add(
                f"says that {output.truth[0]!r} is right, the references say {instance.texts[0]!r};"
                " put the rows into their order, choose another --prediction-column, or delete the"
                " column",
                output.line,
            )
    refuse(faults)
    return list(found), by


def _check_sources(
    instances: Sequence[Record], found: Sequence[Record], faults: FileFaults
) -> None:
    """Each source is a part of the output's, as of a prompt, or in each row the other way round."""
    pairs = [
        ([bare(text) for text in i.sources], [bare(text) for text in o.sources])
        for i, o in zip(instances, found, strict=True)
    ]
    whole = [not a or not b or all(text in " ".join(b) for text in a) for a, b in pairs]
    if all(whole) or all(not a or all(text in " ".join(a) for text in b) for a, b in pairs):
        return
    for instance, output, fits in zip(instances, found, whole, strict=True):
        if not fits:
            faults.add(
                f"must answer the references' instances in their order, expected"
                f" {instance.sources[0]!r}, got {output.sources[0]!r}; sort the outputs",
                output.line,
            )


def bare(text: str) -> str:
    """The letters and digits of a text, in lower case; all of it where there is none."""
    return "".join(filter(str.isalnum, text.casefold())) or text.strip()


def read_table(path: Path, faults: FileFaults) -> list[Row] | None:
    """Return the rows of a table, none where faults were recorded, ``None`` for another file."""
    return read_rows(path, (), faults) if path.suffix.lower() in FORMATS else None


def to_records(
    rows: Sequence[Row],
    columns: Sequence[str],
    about: Sequence[str],
    given: Choice,
    faults: FileFaults,
    truth: Sequence[str] | None = None,
) -> list[Record]:
    """Turn rows into records: references, or outputs where the columns of the truth are given."""
    lists = {name: _has_lists(rows, name, faults, truth is not None) for name in columns}
    present = {plain(name): name for name in columns_of(rows)}
    others = {n: name for n, name in present.items() if name not in columns}
    sources = [others[n] for n in about if n in others and n not in NUMBERS]
    names = [others[name] for name in IDENTIFIERS if name in others]
    if given.identifier in columns_of(rows):
        names = [str(given.identifier)]
    records = []
    for row in rows:
        texts = [t for name in columns for t in _texts(row.values.get(name), lists[name])]
        if len(columns) > 1:  # a row may have fewer than the most
            texts = [text for text in texts if not isinstance(text, str) or text.strip()]
        value = row.values.get(columns[0])
        if not texts or not all(isinstance(text, str) for text in texts):
            faults.add(f"column {columns[0]!r} must hold text, got {value!r}; fix it", row.line)
            continue
        if truth is None and not all(text.strip() for text in texts):
            faults.add("a reference must not be empty; fill it in or delete it", row.line)
        elif truth is not None and len(texts) > 1:
            faults.add(f"must hold one output, got {len(texts)}; keep one", row.line)
        right = [t for n in truth or () for t in _texts(row.values.get(n), True)]
        records.append(
            Record(
                tuple(texts),
                row.line,
                tuple(t for n in sources if isinstance(t := row.values.get(n), str) and t.strip()),
                c if isinstance(c := row.values.get(present.get("category", "")), str) else None,
                isinstance(value, list) or lists[columns[0]],
                {plain(name): identifier(row.values.get(name)) for name in names},
                tuple(text for text in right if isinstance(text, str) and text.strip()),
            )
        )
    return records


def _has_lists(rows: Sequence[Row], column: str, faults: FileFaults, is_output: bool) -> bool:
    """Whether each cell is a list that was written as text, such as ``["a", "b"]``."""
    if Path(faults.path).suffix.lower() in FORMATS[2:] and (is_output or column[-1:] != "s"):
        return False
    cells = [(row.line, str(row.values.get(column)).strip()) for row in rows]
    like = [(line, cell) for line, cell in cells if _LIST.match(cell)]
    if len(like) == len(cells) and all(_texts(cell, True) for _, cell in like):
        return True
    for line, cell in () if is_output else like:
        faults.add(
            f"column {column!r} must hold a JSON list of texts in each row or in none, got {cell!r}"
            "; write all rows alike",
            line,
        )
    return False


def _texts(cell: object, quoted: bool) -> list[Any]:
    """The texts of a cell; of a quoted list those in it, none if it cannot be read."""
    if isinstance(cell, list):
        return cell
    if not (quoted and isinstance(cell, str) and _LIST.match(cell.strip())):
        return [cell]
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        # Python joins 'a' 'b', which is how an array of two texts is printed
        if isinstance(found, list) and not (read is ast.literal_eval and _ARRAY.search(cell)):
            return found
    return []
