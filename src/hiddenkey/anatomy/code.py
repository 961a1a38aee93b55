"""What the code of a module calls, read without running it."""

from __future__ import annotations

import inspect
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


def constants(module: nn.Module) -> frozenset[object]:
    """Return the constants in the code of a module's ``forward``, members of tuples included."""
    forward = _function(getattr(type(module), "forward", None))
    found: set[object] = set()
    for code in () if forward is None else _nested(forward.__code__):
        for constant in code.co_consts:
            found |= set(constant) if isinstance(constant, tuple) else {constant}
    return frozenset(found)


@cache
def _calls(kind: type[nn.Module]) -> frozenset[str]:
    forward = _function(getattr(kind, "forward", None))
    if forward is None:
        return frozenset()
    package = forward.__module__.partition(".")[0]
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
            helpers = (_helper(kind, function, name, package) for name in found)
            todo += [(helper, depth + 1) for helper in helpers if helper is not None]
    return frozenset(names)


def _helper(
    kind: type[nn.Module], caller: FunctionType, name: str, package: str
) -> FunctionType | None:
    method = (
        None if hasattr(nn.Module, name) else _function(inspect.getattr_static(kind, name, None))
    )
    helper = method or _function(caller.__globals__.get(name))
    if helper is None or helper.__module__.partition(".")[0] != package:
        return None
    return helper


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
