"""The WebNLG challenge 2017 (Gardent et al. 2017): from a few triples of DBpedia to a text.

An entry of its XML files has a category, up to seven triples and several texts. Ten categories are
seen in training; the test set has five more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.tasks.faults import FileFaults
from hiddenkey.lab.tasks.markup import Element, read_xml

SEEN_CATEGORIES: Final = frozenset(
    {
        "Airport",
        "Astronaut",
        "Building",
        "City",
        "ComicsCharacter",
        "Food",
        "Monument",
        "SportsTeam",
        "University",
        "WrittenWork",
    }
)
_GOOD: Final = "good"
_IDENTIFIER: Final = re.compile(r"Id(\d+)")


@dataclass(frozen=True)
class Text:
    """A text and the annotators' comment on it: ``good`` or ``toFix``."""

    text: str
    comment: str


@dataclass(frozen=True)
class Entry:
    """One set of triples and its texts.

    Attributes:
        category: DBpedia category.
        identifier: such as ``Id7``; unique within a file, not among files.
        triples: subject, property and object.
        texts: every text, good or not.
    """

    category: str
    identifier: str
    triples: tuple[tuple[str, str, str], ...]
    texts: tuple[Text, ...]

    @property
    def source(self) -> str:
        """The triples in one line, as in the LoRA paper: ``s : p : o | s : p : o``."""
        return " | ".join(" : ".join(triple) for triple in self.triples)

    @property
    def references(self) -> tuple[str, ...]:
        """The good texts; six entries of the training and development sets have none."""
        return tuple(text.text for text in self.texts if text.comment == _GOOD)

    @property
    def seen(self) -> bool:
        """Whether the category occurs in the training set."""
        return self.category in SEEN_CATEGORIES


def read_entries(path: Path) -> tuple[Entry, ...]:
    """Read an official file, or all of a folder in the order of their paths.

    The entries of a file come in the order of their numbers, which is that of the challenge's
    outputs.

    Raises:
        ConfigError: with the faults of every file.
    """
    files = sorted(path.rglob("*.xml")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{path}: must hold .xml files, got none; give the folder above them")
    broken: list[str] = []
    entries: list[Entry] = []
    for file in files:
        faults = FileFaults(file)
        entries += _read_file(file, faults)
        broken += faults.shown()
    if broken:
        raise ConfigError(broken)
    return tuple(entries)


def _read_file(path: Path, faults: FileFaults) -> list[Entry]:
    root = read_xml(path, faults)
    if root is None:
        return []
    elements = [element for element in root.walk() if element.name == "entry"]
    if not elements:
        faults.add(f"must hold <entry> elements, got none in <{root.name}>; check the path")
    return _by_number([_entry(element, faults) for element in elements])


def _by_number(entries: Sequence[Entry]) -> list[Entry]:
    found = [_IDENTIFIER.fullmatch(entry.identifier) for entry in entries]
    numbers = [int(match[1]) for match in found if match]
    if len(set(numbers)) < len(entries):
        return list(entries)
    order = sorted(range(len(entries)), key=numbers.__getitem__)
    return [entries[index] for index in order]


def _entry(element: Element, faults: FileFaults) -> Entry:
    for name in ("category", "eid"):
        if not element.attributes.get(name):
            faults.add(f"<entry> must have the attribute {name!r}; add it", element.line)
    triples = [
        _triple(child, faults)
        for group in element.find("modifiedtripleset")
        for child in group.find("mtriple")
    ]
    size = element.attributes.get("size")
    if not triples:
        faults.add("<entry> must have a <modifiedtripleset> with <mtriple>; add it", element.line)
    elif size is not None and size != str(len(triples)):
        faults.add(
            f"<entry> must have as many <mtriple> as its size {size!r}, got {len(triples)};"
            " correct the size",
            element.line,
        )
    texts = tuple(
        Text(child.text, child.attributes.get("comment", _GOOD)) for child in element.find("lex")
    )
    if not texts or not all(text.text for text in texts):
        faults.add("<entry> must have <lex> elements with text; add the text", element.line)
    return Entry(
        element.attributes.get("category", ""),
        element.attributes.get("eid", ""),
        tuple(triples),
        texts,
    )


def _triple(element: Element, faults: FileFaults) -> tuple[str, str, str]:
    parts = [part.strip() for part in element.text.split(" | ")]
    if len(parts) != 3 or not all(parts):
        faults.add(
            f"<mtriple> must be 'subject | property | object', got {element.text[:80]!r};"
            " correct it",
            element.line,
        )
        return ("", "", "")
    return (parts[0], parts[1], parts[2])
