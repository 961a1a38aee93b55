"""One YAML file of a plan: its content, and all that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hiddenkey.lab.plans.settings import read_settings
from hiddenkey.lab.run.rules import suggestion


class Faults(list[str]):
    """Collects what is wrong with a file while it is read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def add(self, fault: str) -> None:
        """Note a fault, with the file's name."""
        self.append(f"{self._path}: {fault}")

    def one_of(self, place: str, value: object, known: Sequence[str]) -> None:
        """Complain unless the value is known."""
        if value not in tuple(known):
            near = suggestion(str(value), known) or ""
            self.add(f"{place} must be one of {', '.join(known)}, got {value!r}{near}")

    def numbers(self, place: str, value: object) -> tuple[Any, ...]:
        """Return a list of numbers, nothing and a complaint if it is none."""
        if isinstance(value, list | tuple) and value and all(map(_is_number, value)):
            return tuple(value)
        self.add(f"{place} must name at least one number in a list, got {value!r}; such as [1, 2]")
        return ()

    def settings(self, values: Mapping[str, Any], place: str) -> dict[str, Any]:
        """Read settings of a run; those that a task or an arm sets itself are passed through."""
        own = {name: values[name] for name in ("task", "model", "rank", "method") if name in values}
        rest = {name: value for name, value in values.items() if name not in own}
        typed, faults = read_settings(rest, place)
        for fault in faults:
            self.add(fault)
        return {**own, **typed}

    def known(self, content: Mapping[str, Any], names: Sequence[str]) -> None:
        """Complain of what the content has beside the names."""
        for name in content:
            if name not in names:
                near = suggestion(str(name), names) or f"; choose from {', '.join(names)}"
                self.add(f"{name!r} is not a setting{near}")

    def load(self) -> dict[str, Any]:
        """Return the content of the file, nothing if it cannot be read."""
        try:
            content = yaml.safe_load(self._path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            self.add(f"must be YAML ({' '.join(str(error).split())}); mend the file")
            return {}
        if not isinstance(content, dict):
            self.add(f"must hold settings as 'name: value', got {type(content).__name__}")
            return {}
        return content


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def one_line(content: Mapping[str, Any], name: str) -> str:
    """Return a text of the content in one line; without it nothing."""
    return " ".join(str(content.get(name, "")).split())
