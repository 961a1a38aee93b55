"""Language-model heads: from hidden states to logits for one chunk of rows, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

# rows of a low-precision weight that are widened at a time, so that they stay in the cache
_BLOCK = 2048
_HAS_WIDE_OUTPUT = torch.__version__ >= "2.8"


class Use(NamedTuple):
    """What a loss needs of a head.

    Attributes:
        like: hidden states, for their type and device.
        rows: of a chunk, at most.
        branches: how many of the two are to be pulled back; 0 where no gradient is wanted.
        wanted: for which of the head's parameters a gradient is wanted.
    """

    like: Tensor
    rows: int
    branches: int
    wanted: tuple[bool, ...]


class Projection(ABC):
    """One use of a head: chunk after chunk, forward and then, where wanted, back.

    Attributes:
        parameter_gradients: ∂loss/∂parameter so far, where it is wanted.
    """

    parameter_gradients: list[Tensor | None]

    @abstractmethod
    def single(self, states: Tensor) -> Tensor:
        """Return z ``[rows, vocabulary]`` in a wide type, for the caller to overwrite."""

    @abstractmethod
    def pair(self, states: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Return z₁ and ½ (z₁ − z₂) in a wide type, for the caller to overwrite."""

    @abstractmethod
    def pull(self, gradients: list[Tensor], factor: float) -> list[Tensor]:
        """Turn factor · ∂loss/∂z of the last chunk into ∂loss/∂states, and add to the parameters'.

        Args:
            gradients: ∂loss/∂z₁ and, with two branches, ∂loss/∂z₂, in the tensors that
                :meth:`single` or :meth:`pair` returned.
            factor: of all of them.
        """


class Head(ABC):
    """What turns hidden states into logits.

    Attributes:
        size: number of logits of a row.
    """

    size: int

    @abstractmethod
    def parameters(self) -> tuple[Tensor, ...]:
        """Return the tensors that a loss may have a gradient for."""

    @abstractmethod
    def project(self, use: Use) -> Projection:
        """Begin with the chunks of one loss."""


class LinearHead(Head):
    """z = W h + b, the head of most language models; z₁ − z₂ = W (h₁ − h₂).

    Args:
        weight: W ``[vocabulary, hidden]``.
        bias: b ``[vocabulary]`` or ``None``.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias
        self.size = weight.shape[0]

    def parameters(self) -> tuple[Tensor, ...]:
        """Return weight and bias."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def project(self, use: Use) -> Projection:
        """Begin with the chunks of one loss."""
        return _LinearProjection(self, use)


class _LinearProjection(Projection):
    def __init__(self, head: LinearHead, use: Use) -> None:
        # under autocast the model's own head would multiply in this type
        kind, own = use.like.device.type, use.like.dtype
        self._low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else own
        self._wide = torch.promote_types(self._low, torch.float32)
        self._weight = head.weight.detach().to(self._low)
        self._bias = None if head.bias is None else head.bias.detach().to(self._wide)
        # z₁ above, ½ (z₁ − z₂) below: one product for both, there and back
        self._buffer = use.like.new_empty((2 * use.rows, head.size), dtype=self._wide)
        self._inputs: list[Tensor] = []
        self.parameter_gradients = [
            torch.zeros_like(parameter, dtype=self._wide) if wanted else None
            for parameter, wanted in zip(head.parameters(), use.wanted, strict=True)
        ]

    def single(self, states: Tensor) -> Tensor:
        logits = self._buffer[: len(states)]
        low = states.to(self._low)
        wide_product(low, self._weight, logits)
        if self._bias is not None:
            logits += self._bias
        self._inputs = [low]
        return logits

    def pair(self, states: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        count = len(states)
        low = states.to(self._low)
        # subtracted before anything is rounded: a rounding error is not a difference
        half_step = (states.to(self._wide) - other.to(self._wide)).mul_(0.5)
        out = self._buffer[: 2 * count]
        wide_product(torch.cat([low.to(self._wide), half_step]), self._weight, out)
        logits, half = out[:count], out[count:]
        if self._bias is not None:
            logits += self._bias
        self._inputs = [low, other.to(self._low)]
        return logits, half

    def pull(self, gradients: list[Tensor], factor: float) -> list[Tensor]:
        count = len(gradients[0])
        wide = self._buffer[: count * len(gradients)]  # where they lie, one after the other
        low = wide.to(self._low)
        self._add_parameter_gradients(wide, low, factor)
        pulled = (low @ self._weight).mul_(factor)
        return [pulled[:count], pulled[count:]]

    def _add_parameter_gradients(self, wide: Tensor, low: Tensor, factor: float) -> None:
        weight, *bias = self.parameter_gradients
        if weight is not None:
            inputs = torch.cat(self._inputs)[: len(low)]
            if low.dtype == weight.dtype:
                weight.addmm_(low.t(), inputs, alpha=factor)
            else:
                weight.add_(low.t() @ inputs, alpha=factor)
        if bias and bias[0] is not None:
            bias[0].add_(wide.sum(0), alpha=factor)


class ModuleHead(Head):
    """Any head: logits come from the module itself, and gradients from its own graph.

    For heads with an adapter or a wrapper. It runs in float32, since the difference of two logits
    in low precision is their rounding error; low-precision weights are widened for that.

    Args:
        module: from hidden states ``[rows, hidden]`` to ``[rows, size]``.
        size: number of logits of a row.
        passed: keys of the module's pre-hooks that the states have gone through.
    """

    def __init__(self, module: nn.Module, size: int, passed: frozenset[int] = frozenset()) -> None:
        self.module, self.size, self.passed = module, size, passed

    def named_parameters(self) -> dict[str, Tensor]:
        """Return the module's trained parameters by name."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def parameters(self) -> tuple[Tensor, ...]:
        """Return the module's trained parameters."""
        return tuple(self.named_parameters().values())

    def project(self, use: Use) -> Projection:
        """Begin with the chunks of one loss."""
        return _ModuleProjection(self, use)


@contextmanager
def _without_pre_hooks(module: nn.Module, keys: frozenset[int]) -> Iterator[None]:
    """Call a module past some of its pre-hooks, which stay in their order."""
    whole = module._forward_pre_hooks
    module._forward_pre_hooks = OrderedDict(
        (key, hook) for key, hook in whole.items() if key not in keys
    )
    try:
        yield
    finally:
        module._forward_pre_hooks = whole


class _ModuleProjection(Projection):
    def __init__(self, head: ModuleHead, use: Use) -> None:
        self._module, self._passed = head.module, head.passed
        self._wide = torch.promote_types(use.like.dtype, torch.float32)
        self._branches = use.branches
        self._device = use.like.device.type
        trained = dict(zip(head.named_parameters(), use.wanted, strict=True))
        self._weights: dict[str, Tensor] = {}
        for name, parameter in head.module.named_parameters():
            if parameter.is_floating_point():
                widened = parameter.detach().to(self._wide)
                self._weights[name] = widened.requires_grad_(trained.get(name, False))
        self._wanted = [self._weights[name] for name, wanted in trained.items() if wanted]
        self._tape: list[tuple[Tensor, Tensor]] = []
        self.parameter_gradients = [
            torch.zeros_like(self._weights[name]) if wanted else None
            for name, wanted in trained.items()
        ]

    def _run(self, states: Tensor) -> Tensor:
        leaf = states.detach().to(self._wide)
        differentiates = len(self._tape) < self._branches
        with torch.set_grad_enabled(differentiates), torch.autocast(self._device, enabled=False):
            leaf.requires_grad_(differentiates)
            with _without_pre_hooks(self._module, self._passed):
                logits: Tensor = torch.func.functional_call(self._module, self._weights, (leaf,))
        if differentiates:
            self._tape.append((logits, leaf))
        return logits.detach()

    def single(self, states: Tensor) -> Tensor:
        self._tape = []
        return self._run(states).clone()  # the graph may need its own

    def pair(self, states: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        self._tape = []
        logits = self._run(states).clone()
        return logits, (logits - self._run(other)).mul_(0.5)

    def pull(self, gradients: list[Tensor], factor: float) -> list[Tensor]:
        used, self._tape = self._tape[: len(gradients)], []
        found = torch.autograd.grad(
            [logits for logits, _ in used],
            [*(leaf for _, leaf in used), *self._wanted],
            [gradient * factor for gradient in gradients],
            allow_unused=True,
            materialize_grads=True,
        )
        sums = [total for total in self.parameter_gradients if total is not None]
        for total, gradient in zip(sums, found[len(used) :], strict=True):
            total += gradient
        return list(found[: len(used)])


def wide_product(states: Tensor, weight: Tensor, out: Tensor) -> None:
    """Write states · weightᵀ in the precision of ``out``.

    A logit of 20 rounded to bfloat16 is off by up to 0.06, and its probability by 6 %.

    Args:
        states: ``[rows, hidden]``; rounded to the weight's type on a GPU.
        weight: ``[vocabulary, hidden]``.
        out: ``[rows, vocabulary]``, of the weight's type or a wider one.
    """
    if weight.dtype == out.dtype:
        torch.mm(states, weight.t(), out=out)
    elif weight.is_cuda and _HAS_WIDE_OUTPUT:
        torch.mm(states.to(weight.dtype), weight.t(), out_dtype=out.dtype, out=out)
    else:
        wide = states.to(out.dtype)
        for start in range(0, weight.shape[0], _BLOCK):
            block = weight[start : start + _BLOCK].to(out.dtype)
            torch.mm(wide, block.t(), out=out[:, start : start + _BLOCK])
