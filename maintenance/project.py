"""What the scripts of this folder know of a project: its requirements and its fixed versions."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SUITES: Final = (
    ("-m", "not alone", "--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile"),
    ("-m", "alone", "--numprocesses=auto", "--maxprocesses=2", "--dist=loadfile"),
)
"""Arguments of pytest, one tuple for each of the runs of ``make test``."""

NEWEST: Final = "newest"
"""Given as the version of a held package: let it go to its newest release."""

_FILES_ONLY: Final = "# Read as files"
_BOUNDS: Final = (">=", "~=", "==")


@dataclass(frozen=True)
class Project:
    """A project whose Makefile has a target ``install`` with VENV and CONSTRAINTS.

    Attributes:
        root: folder with pyproject.toml, constraints.txt and Makefile.
        extra: the extra that brings everything the tests need.
        build_tools: packages that are locked beside those that pyproject.toml names.
        held: packages that stay at their version of constraints.txt unless another is asked for.
        suites: arguments of pytest, one tuple for each run.
    """

    root: Path
    extra: str = "dev"
    build_tools: tuple[str, ...] = ("pip", "setuptools", "wheel")
    held: tuple[str, ...] = ("torch",)
    suites: tuple[tuple[str, ...], ...] = SUITES

    @property
    def constraints(self) -> Path:
        """The file of the fixed versions."""
        return self.root / "constraints.txt"

    @property
    def table(self) -> dict[str, Any]:
        """The table ``project`` of pyproject.toml."""
        text = (self.root / "pyproject.toml").read_text(encoding="utf-8")
        table: dict[str, Any] = tomllib.loads(text)["project"]
        return table


THIS: Final = Project(Path(__file__).resolve().parents[1])


def requirements(table: dict[str, Any], extra: str) -> list[Requirement]:
    """Return what a project and one of its extras need, the project's own extras opened."""
    found = [Requirement(line) for line in table.get("dependencies", [])]
    return found + list(_of_extra(table, extra))


def _of_extra(table: dict[str, Any], extra: str) -> Iterator[Requirement]:
    for line in table["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if canonicalize_name(requirement.name) == canonicalize_name(table["name"]):
            for inner in sorted(requirement.extras):
                yield from _of_extra(table, inner)
        else:
            yield requirement


def lower_bounds(table: dict[str, Any], extra: str) -> dict[str, str]:
    """Return the oldest version that each requirement allows, where it has a bound."""
    found = {}
    for requirement in requirements(table, extra):
        for specifier in requirement.specifier:
            if specifier.operator in _BOUNDS and not specifier.version.endswith(".*"):
                found[canonicalize_name(requirement.name)] = specifier.version
    return dict(sorted(found.items()))


def pins(text: str) -> dict[str, str]:
    """Return each package of a constraints file with its version, or with all it may have."""
    found: dict[str, list[str]] = {}
    for requirement in _lines(text):
        found.setdefault(requirement.name, []).append(_version(requirement))
    return {name: " / ".join(versions) for name, versions in found.items()}


def versions_here(text: str) -> dict[str, str]:
    """Return each package of a constraints file with its version on this platform and Python."""
    return {
        canonicalize_name(requirement.name): _version(requirement)
        for requirement in _lines(text)
        if requirement.marker is None or requirement.marker.evaluate()
    }


def files_only(text: str) -> dict[str, str]:
    """Return the packages at the end of a constraints file, installed without dependencies."""
    _, found, rest = text.partition(_FILES_ONLY)
    return pins(rest.partition("\n")[2]) if found else {}


def _lines(text: str) -> Iterator[Requirement]:
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            yield Requirement(line)


def _version(requirement: Requirement) -> str:
    return re.sub(r"^==", "", str(requirement.specifier))
