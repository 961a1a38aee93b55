"""Reading small XML files with the line of each element, without document types and entities.

A document type is refused, so that no entity can be defined: a few lines of them can expand to
gigabytes, or name other files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.parsers import expat

from hiddenkey.lab.tasks.faults import FileFaults
from hiddenkey.lab.tasks.utf8 import decode, read_bytes

# a declaration with an encoding, or UTF-16, leaves the decoding to the parser
_OWN_ENCODING: Final = re.compile(rb"\s*<\?xml[^>]*\bencoding\s*=|\xff\xfe|\xfe\xff")


@dataclass(frozen=True)
class Element:
    """An element and the line on which it starts; ``text`` is that before the first child."""

    name: str
    attributes: dict[str, str]
    line: int
    pieces: list[str] = field(default_factory=list)
    children: list[Element] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text without white space around it."""
        return "".join(self.pieces).strip()

    def find(self, name: str) -> list[Element]:
        """The children of that name."""
        return [child for child in self.children if child.name == name]

    def walk(self) -> Iterator[Element]:
        """The element and everything inside it, in the order of the file."""
        waiting = [self]
        while waiting:
            element = waiting.pop()
            yield element
            waiting += reversed(element.children)


class _Refused(Exception):  # noqa: N818 -- never leaves this file
    """The file holds what is not allowed."""


class _Builder:
    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._refuse
        self._open: list[Element] = []
        self.root: Element | None = None

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        element = Element(name, attributes, self.parser.CurrentLineNumber)
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def _end(self, name: str) -> None:
        self._open.pop()

    def _text(self, text: str) -> None:
        if self._open and not self._open[-1].children:
            self._open[-1].pieces.append(text)

    def _refuse(self, *_: object) -> None:
        raise _Refused


def read_xml(path: Path, faults: FileFaults) -> Element | None:
    """Return the root element, or record why the file is refused."""
    raw = read_bytes(path, faults)
    if raw is None or not (_OWN_ENCODING.match(raw) or decode(raw, faults)):
        return None
    builder = _Builder()
    try:
        builder.parser.Parse(raw, True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        faults.add(f"must be well-formed XML ({reason}); mend the file", error.lineno)
    except _Refused:
        faults.add(
            "must have no <!DOCTYPE>, since entities are not read; delete it",
            builder.parser.CurrentLineNumber,
        )
    except (LookupError, ValueError) as error:
        faults.add(f"must have a known encoding ({error}); save the file as UTF-8", 1)
    else:
        return builder.root
    return None
