"""What the code of a module calls, read without running it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from torch import nn

_DEPTH = 4


def calls(module: nn.Module) -> frozenset[str]:
    """Return the names that a module's ``forward`` looks up, in itself and in its helpers.

    Helpers are other methods of its class, and functions of the package that the class comes from.
    What submodules call is theirs.
    """
    kind: Any = type(module)
    return _calls(kind)


def hands_keywords_on(module: nn.Module, name: str) -> bool:
    """Whether a module's ``forward`` calls a method with the keywords that it collects.

    Args:
        module: whose source is read; without any it is taken for one that does not.
        name: of the method.
    """
    kind: Any = type(module)
    return _hands_keywords_on(kind, name)


def constants(module: nn.Module) -> frozenset[object]:
    """Return the constants in the code of a module's ``forward``, members of tuples included."""
    forward = _function(getattr(type(module), "forward", None))
    found: set[object] = set()
    for code in () if forward is None else _nested(forward.__code__):
        for constant in code.co_consts:
            found |= set(constant) if isinstance(constant, tuple) else {constant}
    return frozenset(found)


@cache
def _hands_keywords_on(kind: type[nn.Module], name: str) -> bool:
    forward = _function(getattr(kind, "forward", None))
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(forward)))  # type: ignore[arg-type]
    except (OSError, TypeError, SyntaxError):
        return False
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == name
        and any(keyword.arg is None for keyword in node.keywords)
        for node in ast.walk(tree)
    )


@cache
def _calls(kind: type[nn.Module]) -> frozenset[str]:
    forward = _function(getattr(kind, "forward", None))
    if forward is None:
        return frozenset()
    names: set[str] = set()
    seen: set[CodeType] = set()
    todo = [(forward, 0)]
    while todo:
        function, depth = todo.pop()
        if function.__code__ in seen:
            continue
        seen.add(function.__code__)
        found = {name for code in _nested(function.__code__) for name in code.co_names}
        names |= found
        if depth < _DEPTH:
            helpers = (h for name in found for h in _helpers(kind, function, name, found))
            todo += [(helper, depth + 1) for helper in helpers]
    return frozenset(names)


def _helpers(
    kind: type[nn.Module], caller: FunctionType, name: str, names: set[str]
) -> Iterator[FunctionType]:
    """Return what a name in a method's code may stand for: methods, functions of its package."""
    own = [c for c in kind.__mro__ if c not in nn.Module.__mro__ and name in vars(c)]
    methods = [_function(vars(c)[name]) for c in own]
    if "super" in names:
        yield from filter(None, methods)
    elif not hasattr(nn.Module, name):
        yield from filter(None, methods[:1])
    package = caller.__module__.partition(".")[0]
    function = _function(caller.__globals__.get(name))
    if function is not None and function.__module__.partition(".")[0] == package:
        yield function


def _function(value: Any) -> FunctionType | None:
    value = getattr(value, "__func__", value)
    if not callable(value):
        return None
    value = inspect.unwrap(value)
    return value if isinstance(value, FunctionType) else None


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)
