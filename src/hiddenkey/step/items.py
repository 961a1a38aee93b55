"""Whether a model's own loss is a sum divided by ``num_items_in_batch``."""

from __future__ import annotations

import dis
import inspect
from functools import lru_cache, partial
from types import CodeType
from typing import Any, Final

from torch import nn

from hiddenkey.anatomy.code import hands_keywords_on, loss_forwards

_NAME: Final = "num_items_in_batch"


def divides_by_items(transformer: nn.Module) -> bool:
    """Whether a model's own loss may be a sum divided by ``num_items_in_batch``, if that is given.

    Those that go through transformers' ``loss_function`` and hand their further arguments on. Of
    a classifier it is then so for one class of each sequence alone.
    """
    name = "loss_function"
    return any(
        reached and name in forward.__code__.co_names and hands_keywords_on(forward, name)
        for forward, reached in loss_forwards(transformer)
    )


def takes_items(transformer: nn.Module) -> bool:
    """Whether a model's ``loss_function`` uses ``num_items_in_batch``, as transformers' own do.

    One that a script has put there may be a mean whatever it is handed.
    """
    return uses_items(getattr(transformer, "loss_function", None))


def uses_items(function: Any) -> bool:
    """Whether a loss function looks at its ``num_items_in_batch``, or hands it on.

    To have an argument of that name is not enough: who calls it gives one, and it may be ignored.
    """
    while isinstance(function, partial):
        function = function.func
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    if code is None or (getattr(function, "__module__", None) or "").startswith("transformers."):
        return True
    return _reads(code, _keywords(code))


def _keywords(code: CodeType) -> str | None:
    """The name of ``**keywords``, if a function has them."""
    if not code.co_flags & inspect.CO_VARKEYWORDS:
        return None
    has_rest = bool(code.co_flags & inspect.CO_VARARGS)
    return code.co_varnames[code.co_argcount + code.co_kwonlyargcount + has_rest]


@lru_cache
def _reads(code: CodeType, keywords: str | None) -> bool:
    """Whether code, or a function inside of it, reads the number or hands all keywords on."""
    steps = list(dis.get_instructions(code))
    loaded = {step.argval for step in steps if step.opname.startswith("LOAD_")}
    hands_on = keywords in loaded and any(step.opname == "CALL_FUNCTION_EX" for step in steps)
    inside = (each for each in code.co_consts if isinstance(each, CodeType))
    return _NAME in loaded or hands_on or any(_reads(each, keywords) for each in inside)
