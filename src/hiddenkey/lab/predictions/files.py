"""Reading references and outputs of generated text for scoring.

References may be WebNLG's XML, a table, and plain text otherwise: one reference a line, instances
separated by an empty line, or no empty line at all and one reference for each instance. Outputs may
be a table, and plain text otherwise: one a line, also an empty one.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path

from hiddenkey.errors import ConfigError
from hiddenkey.lab.predictions.columns import SOURCES, Picked, reference_columns
from hiddenkey.lab.predictions.records import (
    NUMBERS,
    TextRecord,
    columns_of,
    match_records,
    read_lines,
    read_outputs,
    read_table,
    same_words,
    to_records,
    with_lists,
)
from hiddenkey.lab.scores import Family
from hiddenkey.lab.tasks import webnlg
from hiddenkey.lab.tasks.files import FileFaults, refuse


@dataclass(frozen=True)
class Material:
    """Instances with their references, one output for each, and the columns they are from."""

    instances: tuple[TextRecord, ...]
    outputs: tuple[str, ...]
    taken: Picked

    @property
    def references(self) -> list[tuple[str, ...]]:
        """The references of each instance."""
        return [instance.texts for instance in self.instances]

    def groups(self) -> dict[str, list[int]]:
        """Indices of all instances, and of the seen and the unseen ones where there are any."""
        categories = [instance.category for instance in self.instances]
        known = [(i, category) for i, category in enumerate(categories) if category is not None]
        parts = {
            "all": list(range(len(self.outputs))),
            "seen": [i for i, category in known if category in webnlg.SEEN_CATEGORIES],
            "unseen": [i for i, category in known if category not in webnlg.SEEN_CATEGORIES],
        }
        return {name: part for name, part in parts.items() if part}


def read_material(
    family: Family, references: Path, outputs: Path, given: Picked | None = None
) -> Material:
    """Read references and outputs, and match them by identifiers where the outputs have any.

    Raises:
        ConfigError: with the faults of both files, or if they do not fit together.
    """
    given = given or Picked()
    faults = FileFaults(references), FileFaults(outputs)
    columns, readings = _read_references(family, references, given, faults[0])
    column, found = read_outputs(outputs, given, (*SOURCES, *NUMBERS), faults[1])
    refuse(*faults)
    found = [_cleaned(record, family, outputs) for record in found]

    instances = _fitting(readings, found)
    if _are_empty(found[len(instances) :]):  # lines at the end of a file, and no outputs
        found = found[: len(instances)]
    paths, taken = (references, outputs), (column, columns)
    ordered, choice = match_records(instances, found, same_words, paths, taken)
    return Material(tuple(instances), tuple(record.texts[0] for record in ordered), choice)


def _fitting(readings: Sequence[list[TextRecord]], found: Sequence[TextRecord]) -> list[TextRecord]:
    """The reading with an instance for each output, else for all but empty ones at the end."""
    exact = [each for each in readings if len(each) == len(found)]
    cut = [each for each in readings if len(each) < len(found) and _are_empty(found[len(each) :])]
    return next(iter((*exact, *cut, *readings)))


def _are_empty(outputs: Sequence[TextRecord]) -> bool:
    return not any(output.texts[0] for output in outputs)


def _read_references(
    family: Family, path: Path, given: Picked, faults: FileFaults
) -> tuple[tuple[str, ...], list[list[TextRecord]]]:
    """The columns, and the ways to read the file, the official scorer's first."""
    is_xml = path.is_dir() or path.suffix.lower() == ".xml"
    rows = None if is_xml else read_table(path, faults)
    if rows is None:
        if given.references:
            faults.add("must be a table to choose a column of, got another file; name no column")
        return (), [_read_entries(path, faults)] if is_xml else _read_blocks(path, faults)
    about = (*SOURCES, *NUMBERS)
    columns = reference_columns(columns_of(rows), about, given.references, faults) if rows else ()
    records = to_records(rows, columns, about, given, faults) if columns else []
    for record in records:
        if not all(text.strip() for text in record.texts):
            faults.add("a reference must not be empty; fill it in or delete it", record.line)
    for record in with_lists(records, path):
        rule = f"must be a text, got {record.texts[0]!r}; write one row for each, or use .jsonl"
        faults.add(f"a reference {rule}", record.line)
    return columns, _group([_cleaned(record, family, path) for record in records])


def _read_entries(path: Path, faults: FileFaults) -> list[TextRecord]:
    try:
        entries = webnlg.read_entries(path)
    except ConfigError as error:
        faults.found += [(index, fault) for index, fault in enumerate(error.faults)]
        return []
    return [
        TextRecord(e.references or e.texts, 0, (), e.category, identifiers={"eid": e.identifier})
        for e in entries
    ]


def _read_blocks(path: Path, faults: FileFaults) -> list[list[TextRecord]]:
    lines = read_lines(path, faults)
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        return []
    blocks: list[list[str]] = [[]]
    for number, line in enumerate(lines, start=1):
        if line:
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
        else:
            faults.add("one empty line separates two instances, got another; delete it", number)
    instances = [TextRecord(tuple(block)) for block in blocks]
    if len(blocks) > 1:
        return [instances]
    return [[TextRecord((reference,)) for reference in blocks[0]], instances]


def _group(records: Sequence[TextRecord]) -> list[list[TextRecord]]:
    """Rows of the same source are one instance: those in a row, or all, or none where that fits.

    Where an identifier occurs more than once, its rows are one.
    """
    names = [next(iter(record.identifiers.values()), "") for record in records]
    if 1 < len(set(names)) < len(names):
        return [_joined(records, names)]
    alone = [not record.sources or len(record.texts) > 1 for record in records]
    meanings = [i if alone[i] else record.sources for i, record in enumerate(records)]
    in_a_row = accumulate(one != other for one, other in pairwise(["", *meanings]))
    return [_joined(records, in_a_row), _joined(records, meanings), list(records)]


def _joined(records: Sequence[TextRecord], keys: Iterable[Hashable]) -> list[TextRecord]:
    """One record of the texts of each key, with the identifiers that all its rows have."""
    parts: dict[Hashable, list[TextRecord]] = {}
    for record, key in zip(records, keys, strict=True):
        parts.setdefault(key, []).append(record)
    joined = []
    for rows in parts.values():
        first, *rest = (set(row.identifiers.items()) for row in rows)
        texts = tuple(text for row in rows for text in row.texts)
        joined.append(replace(rows[0], texts=texts, identifiers=dict(first.intersection(*rest))))
    return joined


def _cleaned(record: TextRecord, family: Family, path: Path) -> TextRecord:
    """The E2E scorer takes the marks of quoting off a table's fields, and apostrophes with them."""
    marks = {".jsonl": "", ".parquet": "", ".tsv": r"^['\"]?\s*|\s*['\"]?$"}
    mark = marks.get(path.suffix.lower(), r"^'\s*") if family == "e2e" else ""
    return replace(record, texts=tuple(re.sub(mark, "", text.strip()) for text in record.texts))
