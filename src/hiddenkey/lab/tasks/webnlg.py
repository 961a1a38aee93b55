"""The WebNLG challenge 2017 (Gardent et al. 2017): from a few triples of DBpedia to a text.

An entry of its XML files has a category, up to seven triples and several texts. Ten categories are
seen in training; the test set has five more.

A document type is refused, so that no entity can be defined: a few lines of them can expand to
gigabytes, or name other files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from hiddenkey.errors import ConfigError
from hiddenkey.lab.tasks.files import FileFaults, decode, read_bytes, refuse

SEEN_CATEGORIES: Final = frozenset(
    (
        *("Airport", "Astronaut", "Building", "City", "ComicsCharacter", "Food", "Monument"),
        *("SportsTeam", "University", "WrittenWork"),
    )
)
_GOOD: Final = "good"
# a declaration with an encoding, or UTF-16, leaves the decoding to the parser
_OWN_ENCODING: Final = re.compile(rb"\s*<\?xml[^>]*\bencoding\s*=|\xff\xfe|\xfe\xff")
_LINE: Final = "line it starts on"  # an attribute that no file can have: a name has no spaces
_IDENTIFIER: Final = re.compile(r"Id(\d{1,18})")


@dataclass(frozen=True)
class Entry:
    """One set of triples and its texts.

    Attributes:
        category: DBpedia category.
        identifier: such as ``Id7``; unique within a file, not among files.
        triples: subject, property and object.
        texts: every text.
        references: the texts that the annotators call good; six entries of the training and
            development sets have none.
    """

    category: str
    identifier: str
    triples: tuple[tuple[str, str, str], ...]
    texts: tuple[str, ...]
    references: tuple[str, ...]

    @property
    def source(self) -> str:
        """The triples in one line, as in the LoRA paper: ``s : p : o | s : p : o``."""
        return " | ".join(" : ".join(triple) for triple in self.triples)

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
    faults = [FileFaults(file) for file in files]
    entries = [_read_file(file, of_file) for file, of_file in zip(files, faults, strict=True)]
    refuse(*faults)
    return tuple(entry for found in entries for entry in found)


def _read_file(path: Path, faults: FileFaults) -> list[Entry]:
    root = _read_xml(path, faults)
    if root is None:
        return []
    elements = list(root.iter("entry"))
    if not elements:
        faults.add(f"must hold <entry> elements, got none in <{root.tag}>; check the path")
    return _by_number([_entry(element, faults) for element in elements])


def _by_number(entries: Sequence[Entry]) -> list[Entry]:
    found = [_IDENTIFIER.fullmatch(entry.identifier) for entry in entries]
    numbers = [int(match[1]) for match in found if match]
    if len(set(numbers)) < len(entries):
        return list(entries)
    order = sorted(range(len(entries)), key=numbers.__getitem__)
    return [entries[index] for index in order]


def _entry(element: Element, faults: FileFaults) -> Entry:
    line = _line_of(element)
    for name in ("category", "eid"):
        if not element.get(name):
            faults.add(f"<entry> must have the attribute {name!r}; add it", line)
    triples = [_triple(child, faults) for child in element.findall("modifiedtripleset/mtriple")]
    size = element.get("size")
    if not triples:
        faults.add("<entry> must have a <modifiedtripleset> with <mtriple>; add it", line)
    elif size is not None and size != str(len(triples)):
        faults.add(
            f"<entry> must have as many <mtriple> as its size {size!r}, got {len(triples)};"
            " correct the size",
            line,
        )
    lexes = element.findall("lex")
    texts = tuple(map(_text_of, lexes))
    good = tuple(_text_of(lex) for lex in lexes if lex.get("comment", _GOOD) == _GOOD)
    if not texts or not all(texts):
        faults.add("<entry> must have <lex> elements with text; add the text", line)
    return Entry(element.get("category", ""), element.get("eid", ""), tuple(triples), texts, good)


def _triple(element: Element, faults: FileFaults) -> tuple[str, str, str]:
    parts = [part.strip() for part in _text_of(element).split(" | ")]
    if len(parts) == 3 and all(parts):
        return (parts[0], parts[1], parts[2])
    faults.add(
        f"<mtriple> must be 'subject | property | object', got {_text_of(element)[:80]!r};"
        " correct it",
        _line_of(element),
    )
    return ("", "", "")


class _RefusedError(Exception):
    """The file holds what is not allowed."""


def _read_xml(path: Path, faults: FileFaults) -> Element | None:
    """Return the root element, or record why the file is refused."""
    raw = read_bytes(path, faults)
    if raw is None or not (_OWN_ENCODING.match(raw) or decode(raw, faults)):
        return None
    parser, builder = expat.ParserCreate(), TreeBuilder()

    def start(name: str, attributes: dict[str, str]) -> None:
        builder.start(name, {**attributes, _LINE: str(parser.CurrentLineNumber)})

    def refuse_document_type(*_: object) -> None:
        raise _RefusedError

    parser.StartElementHandler, parser.EndElementHandler = start, builder.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse_document_type
    try:
        parser.Parse(raw, True)
        return builder.close()
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        faults.add(f"must be well-formed XML ({reason}); fix the file", error.lineno)
    except _RefusedError:
        rule = "must have no <!DOCTYPE>, since entities are not read; delete it"
        faults.add(rule, parser.CurrentLineNumber)
    except (LookupError, ValueError) as error:
        faults.add(f"must have a known encoding ({error}); save the file as UTF-8", 1)
    return None


def _line_of(element: Element) -> int:
    """The line on which an element of :func:`_read_xml` starts."""
    return int(element.attrib[_LINE])


def _text_of(element: Element) -> str:
    """The text before the first child, without white space around it."""
    return (element.text or "").strip()
