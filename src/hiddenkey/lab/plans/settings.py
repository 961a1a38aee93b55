"""A run's settings as a plan gives them: names and types of ``TrainOptions``, all faults found."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hiddenkey.errors import suggestion
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.tasks import TASKS

if TYPE_CHECKING:
    import yaml
    from jsonargparse import ArgumentParser

TYPES: Final = {
    field.name: str(field.type)
    for field in dataclasses.fields(TrainOptions)
    if field.name != "push_to_hub"  # many runs would share the one name
}
"""Type of each setting of a run, in words."""

_MOST_VALUES: Final = 10_000
_MOST_DIGITS: Final = 300
"""Digits of a whole number that still fits a float."""

RESERVED: Final = {
    "task": "tasks",
    "model": "models",
    "method": "methods",
    "rank": "ranks",
    "seed": "seeds",
    "output": "output",
    "resume": "output",
    "overwrite": "output",
}
"""Settings that are the plan's own, and the plan's name for them."""


TABLES: Final = {"per_task": "task", "per_method": "method"}
"""Tables of a plan, and what the keys of each name."""

_AXES: Final = {"rate": "rates", "consistency_weight": "consistency_weights"}


def misplaced(key: str, value: Any = None) -> str:
    """Say where a key belongs that does not stand where a plan has it; empty if all is right.

    Args:
        key: at the plan's top level, or as on the command line, ``per_task.cola``.
        value: what it holds; the keys of a table are looked at too.
    """
    name, _, inner = key.partition(".")
    if what := TABLES.get(name):
        inside = [inner.partition(".")[0]] if inner else value if isinstance(value, dict) else ()
        for each in filter(TYPES.__contains__, inside):
            place = f"{name}.{what.upper()}.{each}"
            return f"has no {what} called {each!r}, which is a setting of the runs; give --{place}"
        return ""
    if name in _plan_names():
        return ""
    if name in TASKS:
        return f"is a task; write its settings under per_task: or give --per_task.{key}"
    if name not in TYPES or name in RESERVED:
        return ""
    several = f", or several as {_AXES[name]}" if name in _AXES else ""
    return f"is a setting of the runs; write it under common: or give --common.{key}{several}"


def read_yaml(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the settings in a YAML file by name, and what is wrong with it as a whole."""
    import yaml

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _loader())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        return {}, [f"{path}: must be YAML ({' '.join(str(error).split())}); fix the file"]
    if not isinstance(content, dict):
        kind = type(content).__name__
        return {}, [f"{path}: must hold settings as 'name: value', got {kind}"]
    if len(list(islice(_values(content), _MOST_VALUES))) == _MOST_VALUES:
        return {}, [
            f"{path}: must hold fewer than {_MOST_VALUES} values; write them out, once each"
        ]
    if any(is_huge(value) for value in _values(content) if not isinstance(value, str)):
        return {}, [
            f"{path}: must hold numbers of at most {_MOST_DIGITS} digits; give a smaller one"
        ]
    return content, []


def is_huge(value: Any) -> bool:
    """Whether a number, or a text that would be read as one, has too many digits for a float."""
    if isinstance(value, str):
        return re.search(rf"\d{{{_MOST_DIGITS + 1}}}", value) is not None
    return isinstance(value, int) and abs(value) >= 10**_MOST_DIGITS


@lru_cache(maxsize=1)
def _loader() -> Any:
    """A loader to which 1_000, 0x10, 010 and 1:30 are texts, and a key is written once."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            node = super().compose_mapping_node(anchor)
            _refuse_repeated([key for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
            return node

        yaml_implicit_resolvers = {  # noqa: RUF012
            first: [each for each in found if not each[0].endswith(":int")]
            for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    decimal = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", decimal, list("-+0123456789"))
    return Loader


def _refuse_repeated(keys: Sequence[yaml.ScalarNode]) -> None:
    """YAML takes the last of several values of one key, and the first one is lost in silence."""
    from yaml.constructor import ConstructorError

    first: dict[str, int] = {}
    for key in keys:
        line = key.start_mark.line + 1
        if key.value in first:
            raise ConstructorError(
                problem=f"{key.value!r} is there twice, in lines {first[key.value]} and {line}"
            )
        first[key.value] = line


def _values(tree: Any) -> Iterator[Any]:
    """Every key and value in a tree, one that is named several times each time."""
    for value in tree if isinstance(tree, dict | list) else ():
        yield value
        yield from _values(value)
    if isinstance(tree, dict):
        for value in tree.values():
            yield value
            yield from _values(value)


def read_settings(values: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Return the settings that hold, in their types, and what is wrong with the others.

    Args:
        values: settings by name.
        where: their place in the plan, for messages.
    """
    from jsonargparse import ArgumentError

    typed: dict[str, Any] = {}
    faults: list[str] = []
    for name, value in values.items():
        if name in RESERVED:
            faults.append(f"{where}: {name!r} is given by the plan's {RESERVED[name]}; move it")
        elif name not in TYPES:
            faults.append(f"{where}: {name!r} {_no_setting(str(name))}")
        else:
            try:
                typed[name] = _parser().parse_object({name: value}, defaults=False)[name]
            except (ArgumentError, OverflowError):
                wanted = in_words(TYPES[name])
                faults.append(f"{where}.{name} must be {wanted}, got {value!r}; fix it")
    return typed, faults


def in_words(annotation: str) -> str:
    """A setting's type as messages write it."""
    words = annotation.replace("dict[str, Any]", "settings by name")
    words = words.replace("dict[str, settings by name]", "a table of settings for each name")
    words = re.sub(r"tuple\[(\w+), \.\.\.\]", r"a list of \1", words)
    words = re.sub(r"dict\[(\w+), (\w+)\]", r"\2 by \1", words)
    words = re.sub(r"Literal\[(.*?)\]", r"one of \1", words)
    return words.replace(" | ", " or ").replace("None", "null").replace('"', "").replace("'", "")


def _no_setting(name: str) -> str:
    """Say why a key is no setting of a run, and where the plan has it."""
    if name in _plan_names():
        return "is the plan's own, for all runs together; write it at the top level"
    near = suggestion(name, TYPES) or "; see 'hiddenkey train --help'"
    return f"is not a setting of a run{near}"


@lru_cache(maxsize=1)
def _plan_names() -> frozenset[str]:
    """The keys at a plan's top level."""
    from hiddenkey.lab.plans.plan import Plan

    return frozenset(field.name for field in dataclasses.fields(Plan))


@lru_cache(maxsize=1)
def _parser() -> ArgumentParser:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainOptions)
    return parser
