"""Noise in a sequence of vectors or a feature map: ``input``, ``hidden`` and ``output``."""

from typing import Any

import torch
from torch import Tensor

from hiddenkey.framework.compensation import rescale
from hiddenkey.framework.patterns import ON_MAPS, PATTERNS


def draw_sequence(pattern: str, rate: float, states: Tensor, visible: Tensor) -> Tensor:
    """Draw a keep mask for a sequence of vectors.

    Args:
        pattern: key of ``PATTERNS``.
        rate: dropout rate.
        states: ``[batch, tokens, features]`` or ``[batch, features]``.
        visible: boolean ``[batch, tokens]`` (not padding), or anything that broadcasts to it.

    Returns:
        Keep mask that broadcasts to ``states``.
    """
    if states.dim() == 2:
        shape = (states.shape[0], 1, states.shape[1])
        return PATTERNS[pattern](shape, rate, visible.new_ones(1, 1, 1)).squeeze(1)
    return PATTERNS[pattern](tuple(states.shape), rate, visible.unsqueeze(-1))


def draw_packed(pattern: str, rate: float, states: Tensor, number: Tensor) -> Tensor:
    """Draw a keep mask for rows that hold several sequences each, which are drawn as if alone.

    How many there are and how long is data, so that a device is waited for.

    Args:
        pattern: key of ``PATTERNS``; those of ``ALIKE_IN_PACKED_ROWS`` do not need it.
        rate: dropout rate.
        states: ``[batch, tokens, features]``.
        number: of each token's sequence, ``[batch, tokens]``, from 0 through the batch.

    Returns:
        Keep mask that broadcasts to ``states``.
    """
    number, rows = number.flatten(), number.shape
    lengths = number.bincount()
    places = torch.arange(len(number), device=number.device)
    place = places - (lengths.cumsum(0) - lengths)[number]
    shape = (len(lengths), int(lengths.max()), states.shape[-1])
    visible = places[: shape[1]] < lengths[:, None]
    keep = PATTERNS[pattern](shape, rate, visible.unsqueeze(-1))
    return keep.expand(*shape[:2], -1)[number, place].view(*rows, -1)


def draw_map(pattern: str, rate: float, states: Tensor) -> Tensor:
    """Draw a keep mask for a feature map, whose places are to it what tokens are to a sequence.

    Args:
        pattern: key of ``PATTERNS``; ``span`` becomes a block of neighbouring places.
        rate: dropout rate.
        states: ``[batch, channels, height, width]``.

    Returns:
        Keep mask that broadcasts to ``states``.
    """
    batch, channels, height, width = states.shape
    visible = torch.ones((1, 1, 1), dtype=torch.bool, device=states.device)
    if pattern in ON_MAPS:
        keep = ON_MAPS[pattern]((batch, height, width, channels), rate, visible[None])
        return keep.movedim(-1, 1)
    keep = PATTERNS[pattern]((batch, height * width, channels), rate, visible)
    whole = keep.expand(-1, height * width, -1)
    return whole.transpose(1, 2).reshape(batch, -1, height, width)


def drop(states: Tensor, keep: Tensor, rate: float, rescaling: str) -> Tensor:
    """Zero dropped units, rescale kept ones: m · x / (1 − p) for ``inverse``, m · x for ``none``.

    Args:
        states: of any shape.
        keep: boolean m, broadcasts to ``states``.
        rate: dropout rate p.
        rescaling: ``inverse`` or ``none``.
    """
    factor = rescale.inverse(rate) if rescaling == "inverse" else 1.0
    if torch.compiler.is_compiling():  # chooses itself what to keep for the backward pass
        return states * keep * factor
    dropped: Tensor = _Scaled.apply(states, keep, factor)  # type: ignore[no-untyped-call]
    return dropped


class _Scaled(torch.autograd.Function):
    """m · x · factor, which keeps no more than the boolean m for the backward pass."""

    @staticmethod
    def forward(states: Tensor, keep: Tensor, factor: float) -> Tensor:
        scale = torch.full((), factor, dtype=states.dtype, device=states.device)
        mask = keep.view(torch.uint8) * scale  # a third of the time that booleans take on a CPU
        # in place where that saves a tensor as large as the states
        return mask.mul_(states) if mask.shape == states.shape else states * mask

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        """By itself, so that ``torch.func`` can differentiate it."""
        _, keep, ctx.factor = inputs
        ctx.save_for_backward(keep)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return _Scaled.apply(gradient, keep, ctx.factor), None, None  # type: ignore[no-untyped-call]
