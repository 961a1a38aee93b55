"""The E2E NLG challenge (Dušek et al. 2018): restaurants, from a meaning representation to a text.

Its files are CSV with the columns ``mr`` and ``ref``, a row for each text. A meaning representation
has several texts; they need not follow each other in the training file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.tasks.faults import FileFaults
from hiddenkey.lab.tasks.tables import read_rows

SOURCE_COLUMN: Final = "mr"
TEXT_COLUMN: Final = "ref"


@dataclass(frozen=True)
class Pair:
    """One row of a file: a meaning representation, such as ``name[Aromi], area[riverside]``."""

    source: str
    text: str


@dataclass(frozen=True)
class Instance:
    """A meaning representation and all its texts."""

    source: str
    references: tuple[str, ...]


def read_pairs(path: Path) -> tuple[Pair, ...]:
    """Read the rows of an official file in their order.

    Raises:
        ConfigError: with the broken rows of the file.
    """
    faults = FileFaults(path)
    pairs = []
    for row in read_rows(path, (SOURCE_COLUMN, TEXT_COLUMN), faults):
        pair = Pair(row.values[SOURCE_COLUMN], row.values[TEXT_COLUMN])
        for column, text in ((SOURCE_COLUMN, pair.source), (TEXT_COLUMN, pair.text)):
            if not (isinstance(text, str) and text.strip()):
                faults.add(
                    f"column {column!r} must hold text, got {text!r}; mend the row", row.line
                )
        pairs.append(pair)
    if faults.found:
        raise ConfigError(faults.shown())
    return tuple(pairs)


def group_pairs(pairs: Sequence[Pair]) -> tuple[Instance, ...]:
    """Collect the texts of each meaning representation, in the order of its first text."""
    texts: dict[str, list[str]] = {}
    for pair in pairs:
        texts.setdefault(pair.source, []).append(pair.text)
    return tuple(Instance(source, tuple(found)) for source, found in texts.items())
