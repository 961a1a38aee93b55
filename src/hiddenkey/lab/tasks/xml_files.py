"""Reading small XML files with the line of each element, without document types and entities.

A document type is refused, so that no entity can be defined: a few lines of them can expand to
gigabytes, or name other files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from hiddenkey.lab.tasks.files import FileFaults, decode, read_bytes

# a declaration with an encoding, or UTF-16, leaves the decoding to the parser
_OWN_ENCODING: Final = re.compile(rb"\s*<\?xml[^>]*\bencoding\s*=|\xff\xfe|\xfe\xff")
_LINE: Final = "line it starts on"  # an attribute that no file can have: a name has no spaces


class _RefusedError(Exception):
    """The file holds what is not allowed."""


def read_xml(path: Path, faults: FileFaults) -> Element | None:
    """Return the root element, or record why the file is refused."""
    raw = read_bytes(path, faults)
    if raw is None or not (_OWN_ENCODING.match(raw) or decode(raw, faults)):
        return None
    parser, builder = expat.ParserCreate(), TreeBuilder()

    def start(name: str, attributes: dict[str, str]) -> None:
        builder.start(name, {**attributes, _LINE: str(parser.CurrentLineNumber)})

    def refuse(*_: object) -> None:
        raise _RefusedError

    parser.StartElementHandler, parser.EndElementHandler = start, builder.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
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


def line_of(element: Element) -> int:
    """The line on which an element of :func:`read_xml` starts."""
    return int(element.attrib[_LINE])


def text_of(element: Element) -> str:
    """The text before the first child, without white space around it."""
    return (element.text or "").strip()
