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
_LOSSES = frozenset({"loss_function", "CrossEntropyLoss", "cross_entropy"})


def calls(module: nn.Module) -> frozenset[str]:
    """Return the names that a module's ``forward`` looks up, in itself and in its helpers.

    Helpers are other methods of its class, and functions of the package that the class comes from.
    What submodules call is theirs.
    """
    kind: Any = type(module)
    return _calls(kind)


def loss_forwards(module: nn.Module) -> Iterator[tuple[FunctionType, bool]]:
    """Return each ``forward`` that may compute a model's loss, the model's own first.

    A model may leave its loss to a base class, by ``super()``, or to a child that it hands its
    labels to.

    Returns:
        The function, and whether it gets the keywords that the model collects.
    """
    return _loss_forwards(module, reached=True)


def hands_keywords_on(function: FunctionType, name: str) -> bool:
    """Whether a function calls a method with the keywords that it collects.

    Args:
        function: whose source is read; without any, its collecting keywords is taken for it.
        name: of the method.
    """
    return _hands_keywords_on(function, name)


def calls_twice(module: nn.Module, maker: str) -> bool:
    """Whether a module's ``forward`` calls what a method returned more than once, by its source.

    Args:
        module: without any source, it does not.
        maker: name of the method.
    """
    kind: Any = type(module)
    forward = _function(getattr(kind, "forward", None))
    return forward is not None and _calls_twice(forward, maker)


def constants(module: nn.Module) -> frozenset[object]:
    """Return the constants in the code of a module's ``forward``, members of tuples included."""
    forward = _function(getattr(type(module), "forward", None))
    found: set[object] = set()
    for code in () if forward is None else _nested(forward.__code__):
        for constant in code.co_consts:
            found |= set(constant) if isinstance(constant, tuple) else {constant}
    return frozenset(found)


def _loss_forwards(module: nn.Module, *, reached: bool) -> Iterator[tuple[FunctionType, bool]]:
    for kind in type(module).__mro__:
        forward = _function(vars(kind).get("forward"))
        if forward is None:
            continue
        yield forward, reached
        names = {name for code in _nested(forward.__code__) for name in code.co_names}
        if names & _LOSSES:
            return
        for name, child in module.named_children():
            if name in names and _takes_labels(child):
                own = reached and hands_keywords_on(forward, name)
                yield from _loss_forwards(child, reached=own)
        if "super" not in names:
            return
        reached = reached and hands_keywords_on(forward, "forward")


def _takes_labels(module: nn.Module) -> bool:
    forward = _function(getattr(type(module), "forward", None))
    return forward is not None and "labels" in forward.__code__.co_varnames


@cache
def _calls_twice(function: FunctionType, maker: str) -> bool:
    tree = _tree(function)
    nodes = [] if tree is None else list(ast.walk(tree))
    names = {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign | ast.AnnAssign)
        if isinstance(node.value, ast.Call) and _called_name(node.value) == maker
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    return sum(isinstance(node, ast.Call) and _called_name(node) in names for node in nodes) > 1


def _called_name(call: ast.Call) -> str | None:
    """Return the name of the function or method that is called, if it has one."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else None


def _tree(function: FunctionType) -> ast.Module | None:
    """Return the syntax of a function; ``None`` without its source."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None


@cache
def _hands_keywords_on(function: FunctionType, name: str) -> bool:
    tree = _tree(function)
    if tree is None:
        return bool(function.__code__.co_flags & inspect.CO_VARKEYWORDS)
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
