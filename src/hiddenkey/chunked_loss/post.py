"""What some models do with their head's output before the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from hiddenkey.chunked_loss.head import Head, Projection, Use


class Post(ABC):
    """An element-wise function z = f(x) of a head's output x."""

    @abstractmethod
    def apply(self, outputs: Tensor) -> Tensor:
        """Return f(x), by the operations that the models use."""

    @abstractmethod
    def bend(self, outputs: Tensor, half: Tensor | None) -> list[Tensor | float]:
        """Overwrite x₁ by z₁, and ½ (x₁ − x₂) by ½ (z₁ − z₂).

        Returns:
            ∂z₁/∂x₁ and ∂z₂/∂x₂, element-wise.
        """


class Scaled(Post):
    """Multiplied or divided by a number, as in Cohere and Granite.

    Args:
        number: of the model's configuration.
        divides: whether the output is divided by it.
    """

    def __init__(self, number: float, *, divides: bool = False) -> None:
        self._number, self._divides = number, divides

    def apply(self, outputs: Tensor) -> Tensor:
        """Return x · number or x / number."""
        return outputs / self._number if self._divides else outputs * self._number

    def bend(self, outputs: Tensor, half: Tensor | None) -> list[Tensor | float]:
        """Scale both in place."""
        scale = 1 / self._number if self._divides else self._number
        outputs *= scale
        if half is not None:
            half *= scale
        return [scale, scale]


class SoftCapped(Post):
    """cap · tanh(x / cap), as in Gemma 2.

    Args:
        cap: bound of the logits.
    """

    def __init__(self, cap: float) -> None:
        self._cap = cap

    def apply(self, outputs: Tensor) -> Tensor:
        """Return cap · tanh(x / cap)."""
        return torch.tanh(outputs / self._cap) * self._cap

    def bend(self, outputs: Tensor, half: Tensor | None) -> list[Tensor | float]:
        """Cap in place, by tanh a − tanh b = tanh(a − b) (1 − tanh a tanh b) for the difference."""
        slopes: list[Tensor | float] = []
        if half is not None:
            other = torch.sub(outputs, half, alpha=2).div_(self._cap).tanh_()
        outputs.div_(self._cap).tanh_()
        if half is not None:
            half.mul_(2 / self._cap).tanh_().mul_(1 - outputs * other).mul_(0.5 * self._cap)
            slopes = [1 - other.square_()]
        slopes.insert(0, 1 - outputs.square())
        outputs *= self._cap
        return slopes


class PostHead(Head):
    """A head whose output goes through a :class:`Post`."""

    def __init__(self, head: Head, post: Post) -> None:
        self.size = head.size
        self._head, self._post = head, post

    def parameters(self) -> tuple[Tensor, ...]:
        """Return the head's."""
        return self._head.parameters()

    def project(self, use: Use) -> Projection:
        """Begin with the chunks of one loss."""
        return _PostProjection(self._head.project(use), self._post)


class _PostProjection(Projection):
    def __init__(self, inner: Projection, post: Post) -> None:
        self._inner, self._post = inner, post
        self._slopes: list[Tensor | float] = []
        self.parameter_gradients = inner.parameter_gradients

    def single(self, states: Tensor) -> Tensor:
        outputs = self._inner.single(states)
        self._slopes = self._post.bend(outputs, None)
        return outputs

    def pair(self, states: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        outputs, half = self._inner.pair(states, other)
        self._slopes = self._post.bend(outputs, half)
        return outputs, half

    def pull(self, gradients: list[Tensor], factor: float) -> list[Tensor]:
        for gradient, slope in zip(gradients, self._slopes, strict=False):
            gradient *= slope
        self._slopes = []
        return self._inner.pull(gradients, factor)
