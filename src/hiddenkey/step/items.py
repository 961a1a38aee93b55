"""Whether a model's own loss is a sum divided by ``num_items_in_batch``."""

from __future__ import annotations

from functools import partial

from torch import nn

from hiddenkey.anatomy.code import hands_keywords_on, loss_forwards


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
    """Whether a model's ``loss_function`` takes ``num_items_in_batch``, as transformers' own do.

    One that a script has put there may be a mean whatever it is handed.
    """
    loss = getattr(transformer, "loss_function", None)
    while isinstance(loss, partial):
        loss = loss.func
    code = getattr(loss, "__code__", None) or getattr(type(loss).__call__, "__code__", None)
    if code is None or (getattr(loss, "__module__", None) or "").startswith("transformers."):
        return True
    names = (*code.co_varnames, *code.co_names, *code.co_consts)
    return "num_items_in_batch" in names
