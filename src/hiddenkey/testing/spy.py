"""Sees what a model really computes, below every Python function that it goes through.

The library finds attention by what a module's code names, or by the functions that it calls. This
spy looks one floor lower, at PyTorch's dispatcher, where the inner calls of
``nn.MultiheadAttention``, scripted functions and compiled kernels show as well; so what one of them
overlooks the other one sees.

An operator counts as attention if it is one of PyTorch's attention kernels, or a softmax over the
last of at least three axes, ``[..., queries, keys]``. Of these, three kinds are no attention among
tokens and are left out:

- the softmax of a mixture of experts' router and of an adapter: by the class or the name of the
  module that calls it, or where it comes from PEFT;
- a softmax over experts or words: its last axis is as long as a number of experts or the vocabulary
  in the model's config, and not as long as the axis of queries;
- a mixture of streams or of layers, for each token by itself: its map begins with ``[batch,
  tokens]``, and neither queries nor keys are as many as the tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.utils._python_dispatch import TorchDispatchMode

_SOFTMAX = ("_softmax", "_safe_softmax", "_masked_softmax")
_KERNELS = ("_scaled_dot_product", "_native_multi_head_attention", "_transformer_encoder_layer_fwd")
_ROUTER = re.compile(r"(?i)router|gat(e|ing)\b|gating|moe|expert|top_?k")
_CHOICES = re.compile(r"expert|vocab")


@dataclass(frozen=True)
class Operation:
    """One operator that ran inside the model.

    Attributes:
        name: of the operator, such as ``_softmax``.
        shape: of an attention map, ``[..., queries, keys]``; empty where the operator tells none.
        modules: names of the modules that it ran in, the outermost first.
    """

    name: str
    shape: tuple[int, ...]
    modules: tuple[str, ...]

    @property
    def module(self) -> str:
        """The innermost module that it ran in."""
        return self.modules[-1] if self.modules else ""


class Spy(TorchDispatchMode):
    """Watches a model while it is active as a context manager.

    Args:
        model: its modules give the names.
        tokens: ``(batch, tokens)`` of what it is given; ``None`` where that is no text.

    Attributes:
        called: names of the modules that were called.
        attention: operators that computed attention.
        random: operators that drew random numbers, outside routers.
        routing: operators that drew random numbers in routers, to choose experts.
    """

    def __init__(self, model: nn.Module, tokens: tuple[int, int] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.called: set[str] = set()
        self.attention: list[Operation] = []
        self.random: list[Operation] = []
        self.routing: list[Operation] = []
        self._names = {module: name for name, module in model.named_modules()}
        self._modules = dict(model.named_modules())
        self._choices = _numbers_of_choices(model)
        self._tokens = tokens
        self._stack: list[str] = []
        self._hooks = ExitStack()

    def __enter__(self) -> Spy:
        before = module_hooks.register_module_forward_pre_hook(self._enter_module)
        after = module_hooks.register_module_forward_hook(self._leave_module, always_call=True)
        self._hooks.enter_context(before)
        self._hooks.enter_context(after)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._hooks.close()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name.startswith(_KERNELS) and not name.endswith("_backward"):
            if not self._mixes_no_tokens(_map_of(args)):
                self._see(self.attention, name, _map_of(args))
            if _dropout_of(func, args, kwargs) > 0:
                self._see(self.random, name, ())
        elif name in _SOFTMAX and self._is_attention(args):
            self._see(self.attention, name, tuple(args[0].shape))
        elif torch.Tag.nondeterministic_seeded in func.tags:
            in_router = self._is_in_router()
            self._see(self.routing if in_router else self.random, name, ())
        return func(*args, **kwargs)

    def _see(self, seen: list[Operation], name: str, shape: tuple[int, ...]) -> None:
        if self._stack:  # otherwise it is not the model's
            seen.append(Operation(name, shape, tuple(self._stack)))

    def _is_attention(self, args: Sequence[Any]) -> bool:
        logits: Tensor = args[0]
        axis = args[1] if len(args) > 1 and isinstance(args[1], int) else -1
        if logits.dim() < 3 or axis % logits.dim() != logits.dim() - 1:
            return False
        if self._is_in_router() or self._mixes_no_tokens(tuple(logits.shape)):
            return False
        queries, choices = logits.shape[-2:]
        return choices not in self._choices or choices == queries

    def _is_in_router(self) -> bool:
        """Whether the innermost module chooses experts, or is an adapter's own."""
        name = self._stack[-1] if self._stack else ""
        kind = type(self._modules[name])
        if kind.__module__.startswith("peft."):
            return True
        return any(_ROUTER.search(word) for word in (name.rpartition(".")[2], kind.__name__))

    def _mixes_no_tokens(self, shape: tuple[int, ...]) -> bool:
        """Whether a map belongs to one token each, and is over something else."""
        if self._tokens is None or len(shape) < 4 or shape[:2] != self._tokens:
            return False
        return self._tokens[1] not in shape[-2:]

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        if module in self._names:
            self._stack.append(self._names[module])
            self.called.add(self._names[module])

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        if module in self._names:
            self._stack.pop()


def _map_of(args: Sequence[Any]) -> tuple[int, ...]:
    """Return the shape of the attention map of a kernel that takes queries and keys."""
    if len(args) > 1 and isinstance(args[0], Tensor) and isinstance(args[1], Tensor):
        return (*args[0].shape[:-1], args[1].shape[-2])
    return ()


def _dropout_of(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> float:
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return float(given.get("dropout_p") or 0.0)


def _numbers_of_choices(model: nn.Module) -> set[int]:
    """Return how many experts and words the model's configs speak of."""
    found = set()
    for module in model.modules():
        config = getattr(module, "config", None)
        found |= {
            value
            for name, value in getattr(config, "__dict__", {}).items()
            if _CHOICES.search(name) and isinstance(value, int) and value > 1
        }
    return found
