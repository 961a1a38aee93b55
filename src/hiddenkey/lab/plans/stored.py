"""The plan in its comparison's folder, so that the comparison can go on from the folder alone."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hiddenkey.files import write_whole
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.settings import read_yaml

FILE: Final = "plan.yaml"
_HEADER: Final = (
    "# Written by 'hiddenkey compare': all settings of the comparison in this folder.\n"
)
_LOCKS: Final = "locks"
"""A folder that every comparison's folder has."""

_OF_ONE_CALL: Final = ("retry_failed", "accept_changes", "dry_run")
_PASSWORD: Final = re.compile(r"://[^/@]*:[^/@]*@")


@dataclass(frozen=True)
class StoredPlan:
    """A plan and the file that has it."""

    path: Path
    plan: Plan


def store_plan(plan: Plan) -> None:
    """Write a plan into its folder; a file of that name that somebody else wrote stays.

    A database's address that holds a password is left out: the environment variable has it.
    """
    path = Path(plan.output) / FILE
    with suppress(FileNotFoundError):
        if not path.read_text(encoding="utf-8", errors="replace").startswith(_HEADER):
            return
    import yaml

    values = {
        field.name: value
        for field in dataclasses.fields(plan)
        if (value := getattr(plan, field.name)) is not None and field.name not in _OF_ONE_CALL
    }
    if _PASSWORD.search(values.get("storage", "")):
        del values["storage"]
    text = yaml.safe_dump(_lists(values), sort_keys=False, allow_unicode=True)
    write_whole(path, _HEADER + text)


def read_plan(folder: Path) -> StoredPlan | None:
    """Return the plan in a comparison's folder; ``None`` if there is none that can be read."""
    path = folder / FILE
    values, faults = read_yaml(path) if path.is_file() else ({}, ["missing"])
    if faults:
        return None
    given: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in values.items()
    }
    with suppress(TypeError, ValueError, AttributeError):
        plan = Plan(**given)
        plan.settings()
        return StoredPlan(path, plan)
    return None


def in_its_folder(words: Sequence[str]) -> list[str]:
    """Return the words of the command with the folder of a plan that lies in its comparison's.

    A folder that was renamed or moved, or is named from elsewhere, would else be begun anew at the
    place that its plan was written for. Words that name an output themselves stay as they are.
    """
    flags = [word.partition("=")[0] for word in words]
    paths = [Path(word.removeprefix("--config=")) for word in words if word.endswith(FILE)]
    if "--output" in flags or len(paths) != 1 or not _is_in_its_folder(paths[0]):
        return list(words)
    return [*words, f"--output={paths[0].parent}"]


def _is_in_its_folder(path: Path) -> bool:
    """Whether a plan is the one that a comparison left in its folder, which is not the plan's."""
    if path.name != FILE or not (path.parent / _LOCKS).is_dir():
        return False
    with suppress(OSError):
        if path.read_text(encoding="utf-8", errors="replace").startswith(_HEADER):
            stored = read_plan(path.parent)
            return stored is not None and (
                Path(stored.plan.output).resolve() != path.parent.resolve()
            )
    return False


def _lists(value: Any) -> Any:
    """The same value with lists for tuples, which YAML has no word for."""
    if isinstance(value, Mapping):
        return {name: _lists(each) for name, each in value.items()}
    return [_lists(each) for each in value] if isinstance(value, list | tuple) else value
