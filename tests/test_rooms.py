"""Rooms import downward only, as docs/ARCHITECTURE.md draws them, and nothing goes in a circle.

Imports are read from the sources, so that one inside a function or for type checking counts too.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import hiddenkey

SOURCE = Path(hiddenkey.__file__).parent

# From high to low. A module may import its own room and rooms of the levels below.
LEVELS = (
    {"__main__"},
    {"cli"},
    {"lab.claims", "lab.tune"},
    {"lab.report", "lab.compare"},
    {"lab.present"},
    {"lab.results"},
    {"lab.evidence"},
    {"lab.plans"},
    {"lab.queue"},
    {"lab.run"},
    {"lab.predictions"},
    {"lab.tasks"},
    {"lab.scores"},
    {"lab.assets"},
    {"lab.split_assets"},
    {"lab.gguf_files"},
    {"launch"},
    {"testing"},
    {"integrations"},
    {"attachment"},
    {"step"},
    {"chunked_loss"},
    {"sequence", "attention"},
    {"anatomy", "framework"},
    {"errors", "files", "installation", "quiet", "measure", "memory", "log"},
)
# Not of the library: what a training script never loads.
OUTSIDE = ("cli", "__main__", "lab")
# Modules without a level: packages of which others stand on several.
FACADES = {"", "lab", "positions", "patterns"}


@dataclass(frozen=True)
class Import:
    """One import of a module of this package.

    Attributes:
        source: the importing module, without ``hiddenkey.``.
        target: the module that is imported.
        at_run_time: whether importing ``source`` imports ``target``: the statement is not inside a
            function, and not for type checking alone.
    """

    source: str
    target: str
    at_run_time: bool


@cache
def sources() -> Mapping[str, Path]:
    """Each module by its name, the package's own by ``""``."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> tuple[Import, ...]:
    return tuple(each for name, path in sources().items() for each in imports_of(name, path))


def imports_of(name: str, path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node, at_run_time in statements(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports are not read here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names]
        for full in names:
            if full.partition(".")[0] == "hiddenkey":
                yield Import(name, module_of(full.partition(".")[2]), at_run_time)


def statements(
    node: ast.AST, at_run_time: bool = True
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import statement below a node, and whether it runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_run_time
            continue
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield from statements(child, at_run_time and not inside and not typing)


def module_of(name: str) -> str:
    """The module that has an imported name; a public name's is the one that defines it."""
    if name in sources():
        return name
    above, _, last = name.rpartition(".")
    return hiddenkey._MODULE_OF.get(last, "") if above == "" else above


def level_of(module: str) -> int:
    return next(n for n, rooms in enumerate(LEVELS) if any(is_in(module, r) for r in rooms))


def room_of(module: str) -> str:
    return next(r for r in LEVELS[level_of(module)] if is_in(module, r))


def is_in(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def goes_down(each: Import) -> bool:
    if each.source in FACADES or each.target in FACADES:
        return True
    source, target = level_of(each.source), level_of(each.target)
    lowest = len(LEVELS) - 1
    return (
        source < target
        or source == target == lowest
        or room_of(each.source) == room_of(each.target)
    )


def test_every_module_has_a_room():
    homeless = [
        name
        for name in sources()
        if name not in FACADES and not any(is_in(name, room) for rooms in LEVELS for room in rooms)
    ]
    assert homeless == []


def test_rooms_import_downward():
    upward = {(each.source, each.target) for each in imports() if not goes_down(each)}
    assert sorted(upward) == []


def test_the_library_knows_neither_the_lab_nor_the_command_line():
    wrong = [
        (each.source, each.target)
        for each in imports()
        if any(is_in(each.target, room) for room in OUTSIDE)
        and not any(is_in(each.source, room) for room in OUTSIDE)
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {name: set() for name in sources()}
    for each in imports():
        if each.at_run_time and each.source != each.target:
            graph[each.source].add(each.target)
    assert circles(graph) == []


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Sets of nodes that reach each other, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            members = stack[stack.index(node) :]
            del stack[-len(members) :]
            if len(members) > 1:
                found.append(sorted(members))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize(
    "module", ["framework.config", "framework.consistency", "framework.catalogue"]
)
def test_the_configuration_knows_no_model(module):
    code = f"import json, sys, hiddenkey.{module}; print(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    loaded = [name.removeprefix("hiddenkey.") for name in json.loads(done.stdout)]
    rooms = ("anatomy", "attention", "attachment", "positions", "step")
    wrong = {room for room in rooms if any(is_in(name, room) for name in loaded)}
    assert wrong == set()
