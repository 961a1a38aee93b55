"""Reading references and outputs of generated text for scoring.

References may be WebNLG's XML, CSV, TSV or JSONL, and plain text otherwise: one reference a line,
instances separated by an empty line, or no empty line at all and one reference for each instance.
Outputs may be CSV, TSV or JSONL, and plain text otherwise: one a line, also an empty one. The
columns of tables may have any of several names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.scores import Family
from hiddenkey.lab.tasks import webnlg
from hiddenkey.lab.tasks.files import FileFaults, read_text, refuse
from hiddenkey.lab.tasks.tables import Row, read_rows

FORMATS: Final = (".csv", ".tsv", ".jsonl")
SOURCES: Final = ("mr", "source", "prompt", "input", "context")
REFERENCES: Final = ("references", "reference", "ref", "target", "completion", "text")
OUTPUTS: Final = ("output", "prediction", "hypothesis", "generated", "completion", "ref", "text")
CATEGORY: Final = "category"
_LINE_END: Final = re.compile(r"\r\n|\n|\r")


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
        return None if self.category is None else self.category in webnlg.SEEN_CATEGORIES


@dataclass(frozen=True)
class Material:
    """Instances with their references, and one output for each."""

    instances: tuple[Record, ...]
    outputs: tuple[str, ...]

    @property
    def references(self) -> list[tuple[str, ...]]:
        """The references of each instance."""
        return [instance.texts for instance in self.instances]

    def groups(self) -> dict[str, list[int]]:
        """Indices of all instances, and of the seen and the unseen ones where there are any."""
        parts = {
            "all": list(range(len(self.outputs))),
            "seen": [i for i, instance in enumerate(self.instances) if instance.seen is True],
            "unseen": [i for i, instance in enumerate(self.instances) if instance.seen is False],
        }
        return {name: part for name, part in parts.items() if part}


def read_material(family: Family, references: Path, outputs: Path) -> Material:
    """Read both files and match them.

    Raises:
        ConfigError: with the faults of both files, or if they do not fit together.
    """
    of_references, of_outputs = FileFaults(references), FileFaults(outputs)
    readings = _read_references(family, references, of_references)
    found = _read_outputs(family, outputs, of_outputs)
    refuse(of_references, of_outputs)
    return _match(readings, found, references, outputs)


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


def _match(
    readings: Sequence[Sequence[Record]],
    found: Sequence[Record],
    references: Path,
    outputs: Path,
) -> Material:
    for instances in readings:
        size = len(instances)
        # empty lines at the end of a file are no outputs
        if size <= len(found) and not any(output.texts[0] for output in found[size:]):
            _check_sources(instances, found[:size], outputs)
            return Material(tuple(instances), tuple(output.texts[0] for output in found[:size]))
    raise ConfigError(
        f"{outputs}: must hold one output for each of the {len(readings[0])} instances of"
        f" {references}, got {len(found)}; give as many outputs, in the same order"
    )


def _check_sources(instances: Sequence[Record], found: Sequence[Record], outputs: Path) -> None:
    faults = FileFaults(outputs)
    for instance, output in zip(instances, found, strict=True):
        if instance.source is None or output.source is None:
            continue
        if instance.source.split() != output.source.split():
            faults.add(
                f"must answer the references' instances in their order, expected"
                f" {instance.source!r}, got {output.source!r}; sort the outputs",
                output.line,
            )
    refuse(faults)


def _read_references(family: Family, path: Path, faults: FileFaults) -> list[list[Record]]:
    """The ways to read the file, the official scorer's first."""
    if path.is_dir() or path.suffix.lower() == ".xml":
        return [_read_entries(path, faults)]
    if path.suffix.lower() not in FORMATS:
        return _read_blocks(path, faults)
    records = _read_records(path, REFERENCES, faults)
    for record in records:
        if not all(text.strip() for text in record.texts):
            faults.add("a reference must not be empty; fill it in or delete it", record.line)
    return _group([_cleaned(record, family, path) for record in records])


def _read_entries(path: Path, faults: FileFaults) -> list[Record]:
    try:
        entries = webnlg.read_entries(path)
    except ConfigError as error:
        faults.found += [(index, fault) for index, fault in enumerate(error.faults)]
        return []
    return [Record(entry.references or entry.texts, category=entry.category) for entry in entries]


def _read_blocks(path: Path, faults: FileFaults) -> list[list[Record]]:
    text = read_text(path, faults)
    if text is None:
        return []
    lines = [line.strip() for line in _LINE_END.split(text.rstrip())]
    blocks: list[list[str]] = [[]]
    for number, line in enumerate(lines, start=1):
        if line:
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
        else:
            faults.add("one empty line separates two instances, got another; delete it", number)
    instances = [Record(tuple(block)) for block in blocks]
    if len(blocks) > 1:
        return [instances]
    return [[Record((reference,)) for reference in blocks[0]], instances]


def _group(records: Sequence[Record]) -> list[list[Record]]:
    """Rows of the same source are one instance: those in a row, or all where that fits."""
    in_a_row: list[list[Record]] = []
    by_source: dict[str | int, list[Record]] = {}
    for index, record in enumerate(records):
        alone = record.listed or record.source is None
        same = bool(in_a_row) and in_a_row[-1][-1].source == record.source
        if same and not alone:
            in_a_row[-1].append(record)
        else:
            in_a_row.append([record])
        by_source.setdefault(index if alone else str(record.source), []).append(record)
    return [[_joined(rows) for rows in reading] for reading in (in_a_row, by_source.values())]


def _joined(rows: Sequence[Record]) -> Record:
    return replace(rows[0], texts=tuple(text for row in rows for text in row.texts))


def _cleaned(record: Record, family: Family, path: Path) -> Record:
    return replace(record, texts=tuple(_as_scorer_reads(t, family, path) for t in record.texts))


def _read_outputs(family: Family, path: Path, faults: FileFaults) -> list[Record]:
    if path.suffix.lower() not in FORMATS:
        text = read_text(path, faults)
        lines = [] if text is None else _LINE_END.split(text)
        if lines and not lines[-1]:
            lines.pop()  # the end of the last line
        return [Record((line.strip(),), number) for number, line in enumerate(lines, start=1)]
    records = _read_records(path, OUTPUTS, faults)
    for record in records:
        if len(record.texts) > 1:
            faults.add(f"must hold one output, got {len(record.texts)}; keep one", record.line)
    return [_cleaned(record, family, path) for record in records]


def _as_scorer_reads(text: str, family: Family, path: Path) -> str:
    """The E2E scorer takes the marks of quoting off a table's fields, and apostrophes with them."""
    text = text.strip()
    suffix = path.suffix.lower()
    if family != "e2e" or suffix == ".jsonl":
        return text
    if suffix == ".tsv":
        return re.sub(r"^['\"]?\s*|\s*['\"]?$", "", text)
    return text.removeprefix("'").lstrip()


def _read_records(path: Path, names: Sequence[str], faults: FileFaults) -> list[Record]:
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


def _lower(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.strip().lower(): value for name, value in values.items()}


def _text(row: Row, column: str | None) -> str | None:
    value = None if column is None else row.values.get(column)
    return value if isinstance(value, str) else None
