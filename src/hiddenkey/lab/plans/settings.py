"""A run's settings as a plan gives them: names and types of ``TrainOptions``, all faults found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hiddenkey.errors import suggestion
from hiddenkey.lab.run.options import TrainOptions

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

TYPES: Final = {field.name: str(field.type) for field in dataclasses.fields(TrainOptions)}
"""Type of each setting of a run, in words."""

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


def read_yaml(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the settings in a YAML file by name, and what is wrong with it as a whole."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return {}, [f"{path}: must be YAML ({' '.join(str(error).split())}); fix the file"]
    if not isinstance(content, dict):
        kind = type(content).__name__
        return {}, [f"{path}: must hold settings as 'name: value', got {kind}"]
    return content, []


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
            near = suggestion(str(name), TYPES) or "; see 'hiddenkey train --help'"
            faults.append(f"{where}: {name!r} is not a setting of a run{near}")
        else:
            try:
                typed[name] = _parser().parse_object({name: value})[name]
            except ArgumentError:
                wanted = TYPES[name].replace(" | None", " or null")
                faults.append(f"{where}.{name} must be {wanted}, got {value!r}; fix it")
    return typed, faults


@lru_cache(maxsize=1)
def _parser() -> ArgumentParser:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainOptions)
    return parser
