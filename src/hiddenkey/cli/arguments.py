"""Typed flags and YAML files from a dataclass, by jsonargparse, with all faults in one error.

``--learning-rate`` and ``--learning_rate`` are the same flag. A flag of a list takes its values one
after the other (``--layers 0 1 2``); a flag of a truth value may stand alone.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import typing
from argparse import HelpFormatter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from hiddenkey.cli.foreign_names import known_elsewhere
from hiddenkey.cli.sections import group
from hiddenkey.errors import ConfigError, suggestion
from hiddenkey.lab.plans.recipes import located, near
from hiddenkey.lab.plans.settings import TABLES, in_words, is_huge, read_yaml
from hiddenkey.lab.tasks.tables import TABLE_ENDINGS

Options = TypeVar("Options")
_CONFIG: Final = "config"
_ODD_NUMBER: Final = re.compile(r"[-+]?(0[xob]\w*|0\d+|[\d.]*\d_[\d_.]*|\d+(:\d+)+)", re.IGNORECASE)
_ROW: Final = re.compile(r"(0|[1-9]\d{0,9})-(0|[1-9]\d{0,9})")
_LONGEST_ROW: Final = 10_000

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def parse(
    kind: type[Options],
    command: str,
    arguments: Sequence[str],
    *,
    positional: bool = False,
    first: str = "",
) -> Options:
    """Read flags, and YAML files or recipes named by ``--config``, into an instance of ``kind``.

    Args:
        kind: frozen dataclass; the text under each field is the flag's help.
        command: name of the subcommand.
        arguments: words after the subcommand; later ones win, flags win over earlier files.
        positional: fields without a default are given without a flag.
        first: what the help shows before the flags, for words that the caller turns into flags.

    Raises:
        ConfigError: with every unknown name and wrong type in the flags and files.
    """
    parser = _build_parser(kind, command, positional)
    parser.first = first
    words = _normalise(kind, arguments)
    files = [word.partition("=")[2] for word in words if word.startswith(f"--{_CONFIG}=")]
    if any(_file_faults(parser, kind, path) for path in files):
        raise ConfigError(_diagnose(parser, kind, words, ""))
    try:
        found = parser.parse_args(words)
    except (ArgumentError, ValueError, ArithmeticError, RecursionError) as error:
        raise ConfigError(_diagnose(parser, kind, words, str(error))) from None
    values = {name: found[name] for name in typing.get_type_hints(kind)}
    flags = (word[2:].split("=", 1) for word in words if word.startswith("--"))
    given = [*((name, value, _shown(name)) for name, *value in flags)]
    given += [(name, value, name) for name, value in values.items()]
    if faults := [fault for each in given for fault in _value_faults(kind, *each)]:
        raise ConfigError(faults)
    return kind(**values)


def _build_parser(kind: type[Any], command: str, positional: bool) -> _Parser:
    """Return the jsonargparse parser of a dataclass; it raises instead of exiting."""
    # jsonargparse would import what the dataclass's module imports for type checking alone
    kind.__init__.__annotations__ |= typing.get_type_hints(kind)
    prog = command if "/" in command else f"hiddenkey {command}"
    parser = _Parser(prog=prog, exit_on_error=False, allow_abbrev=False)
    parser.add_argument(
        f"--{_CONFIG}",
        action="config",
        help="YAML file of these settings, or a recipe; flags after it win.",
    )
    parser.add_class_arguments(kind, as_positional=positional)
    group(parser, kind)
    return parser


class _Parser(ArgumentParser):
    """Shows flags with hyphens, and first what is given without a flag."""

    first = ""

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        text = super().format_help(formatter)
        if self.first:
            text = text.replace(f"usage: {self.prog} ", f"usage: {self.prog} {self.first} ", 1)
        return re.sub(r"--[a-z_]+", lambda flag: flag[0].replace("_", "-"), text)


def _normalise(kind: type[Any], arguments: Sequence[str]) -> list[str]:
    """Bring each flag and its values into one word ``--name=value``; recipes become their files."""
    hints = typing.get_type_hints(kind)
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--help":
            words.append(word)
            continue
        flag, equals, value = word.partition("=")
        name = _with_underscores(flag[2:])
        hint = hints.get(name)
        item = _item_type(hint)
        if not equals:
            values = list(takewhile(lambda word: not word.startswith("--"), rest))
            if item is not None:
                value, rest = _as_list(values, item), rest[len(values) :]
            elif _stands_alone(hint, rest):
                value = "true"
            elif values:
                value = rest.pop(0)
            else:
                words.append(f"--{name}")
                continue
        elif item is str and value.startswith("["):
            value = _as_texts(value)
        words.append(f"--{name}={located(value) if name == _CONFIG else value}")
    return words


def _with_underscores(flag: str) -> str:
    """A flag's name as settings are written; the names of tasks and methods stay as they are."""
    first, *inner = flag.replace("-", "_").split(".")
    given = flag.split(".")[1:]
    kept = 1 if first in TABLES else len(inner) - 1
    return ".".join([first, *given[:kept], *inner[kept:]])


def _stands_alone(hint: Any, rest: Sequence[str]) -> bool:
    """Whether a flag of this type is true by being there."""
    if hint in (bool, bool | None):
        return not (rest and rest[0].lower() in ("true", "false"))
    return bool in typing.get_args(hint) and not (rest and not rest[0].startswith("--"))


def _as_list(values: list[str], item: type) -> str:
    if len(values) == 1 and values[0].startswith("["):
        return _as_texts(values[0]) if item is str else values[0]
    if item is int:
        values = [number for value in values for number in _of_row(value)]
    return json.dumps(values) if item is str else "[" + ",".join(values) + "]"


def _of_row(value: str) -> list[str]:
    """The numbers of ``0-9``; any other word, and a row too long to be meant, stays as it is."""
    if ends := _ROW.fullmatch(value):
        row = range(int(ends[1]), int(ends[2]) + 1)
        if 0 < len(row) <= _LONGEST_ROW:
            return list(map(str, row))
    return [value]


def _as_texts(value: str) -> str:
    """A list in brackets, whose items may stand without quotes: ``[0, 1]`` for ``["0", "1"]``."""
    with suppress(ValueError, RecursionError):
        if all(isinstance(item, str) for item in json.loads(value)):
            return value
    return json.dumps([item.strip(" '\"") for item in value.strip("[]").split(",")])


def _item_type(hint: Any) -> type | None:
    """The type of a tuple's items, also of an optional tuple; ``None`` for other types."""
    tuples = (part for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is tuple)
    return next((typing.get_args(part)[0] for part in tuples), None)


def _diagnose(
    parser: ArgumentParser, kind: type[Any], words: Sequence[str], message: str
) -> list[str]:
    """Find every fault, where the parser stopped at the first one."""
    faults: list[str] = []
    names = [field.name for field in dataclasses.fields(kind)]
    for word in (word for word in words if word.startswith("--")):
        flag, equals, value = word[2:].partition("=")
        name = flag.partition(".")[0]
        if flag == _CONFIG:
            faults += _file_faults(parser, kind, value)
        elif place := _misplaced(kind, flag, value):
            faults.append(f"{_shown(flag)} {place}")
        elif name not in names:
            faults.append(f"{_shown(flag)} is not a setting{_hint(kind, flag, _shown)}")
        elif not equals:
            faults.append(f"{_shown(flag)} needs a value, got none; give one")
        else:
            faults += _type_fault(parser, kind, flag, value, _shown(flag))
    return faults or [re.sub(r"\s+", " ", message)]


def _hint(kind: type[Any], wrong: str, shown: Callable[[str], str]) -> str:
    """Say what was meant by a name that is no setting."""
    names = [field.name for field in dataclasses.fields(kind)]
    written = known_elsewhere(
        wrong.partition(".")[0], names, lambda key: _misplaced(kind, key, None)
    )
    near = suggestion(shown(wrong), map(shown, [*names, _CONFIG]))
    return written or near or "; see --help"


def _misplaced(kind: type[Any], flag: str, value: Any) -> str:
    """Where a setting belongs, if the dataclass knows that it stands in the wrong place."""
    return str(kind.misplaced(flag, value)) if hasattr(kind, "misplaced") else ""


def _shown(flag: str) -> str:
    return "--" + flag.replace("_", "-")


def _file_faults(parser: ArgumentParser, kind: type[Any], path: str) -> list[str]:
    if not Path(path).is_file():
        wrong = f"--config must be a YAML file or a recipe, got {path!r}; no such file or recipe"
        return [wrong + near(path)]
    names = [field.name for field in dataclasses.fields(kind)]
    if "init" in names and Path(path).suffix.lower() in TABLE_ENDINGS:
        return [
            f"{path}: must hold settings as 'name: value', got data; write a plan for them by"
            f" 'hiddenkey compare --init {shlex.quote(path)}'"
        ]
    content, faults = read_yaml(Path(path))
    for name, value in content.items():
        if place := _misplaced(kind, str(name), value):
            faults.append(f"{path}: {name!r} {place}")
        elif name not in names:
            faults.append(f"{path}: {name!r} is not a setting{_hint(kind, str(name), str)}")
        else:
            faults += _type_fault(parser, kind, str(name), value, f"{path}: {name}")
    return faults


def _type_fault(
    parser: ArgumentParser, kind: type[Any], flag: str, value: Any, shown: str
) -> list[str]:
    if faults := _value_faults(kind, flag, value, shown):
        return faults
    try:
        if isinstance(value, str):
            parser.parse_args([f"--{flag}={value}"], defaults=False, _skip_validation=True)
        else:
            parser.parse_object({flag: value}, defaults=False, _skip_validation=True)
    except (ArgumentError, ValueError, ArithmeticError, RecursionError):
        return [f"{shown} must be {in_words(_type_of(kind, flag))}, got {value!r}; see --help"]
    return []


def _value_faults(kind: type[Any], flag: str, value: Any, shown: str) -> list[str]:
    """What the parser takes and nobody means: no value, NUL in a text, 1_000 as a number."""
    wanted = _type_of(kind, flag)
    if value is None and "None" not in wanted:
        return [f"{shown} must be {in_words(wanted)}, got null; leave it out for the default"]
    if any(re.search("[\0\ud800-\udfff]", text) for text in _texts(value)):
        return [f"{shown} must be text without NUL and halves of characters, got {value!r}; fix it"]
    if "str" not in wanted and re.search("int|float", wanted):
        for text in filter(_ODD_NUMBER.fullmatch, _texts(value)):
            return [f"{shown} must be {in_words(wanted)}, got {text!r}; write plain digits"]
    if re.search("int|float|dict", wanted) and any(map(is_huge, _texts(value))):
        return [f"{shown} must be {in_words(wanted)}, got {value!r}; give a smaller number"]
    return []


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, and every part of one that looks like a list."""
    if isinstance(value, str):
        yield from re.split(r"[\[\],{}\s]+", value) if value[:1] in ("[", "{") else (value,)
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _type_of(kind: type[Any], flag: str) -> str:
    """The type of a setting, as it is written."""
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    return types.get(flag.partition(".")[0], "Any | None")
