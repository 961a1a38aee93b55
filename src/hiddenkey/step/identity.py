"""Who the examples of a batch are: a hash of what the model is given, or a column of numbers.

The hash is Σ mix(tokenᵢ) · mix(i) modulo 2⁶⁴ over an example's visible tokens i, so that it is the
same whatever the batch pads it to. Two of a million different examples are mistaken for each other
with a probability of about 3e-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from hiddenkey.errors import ConsistencyError
from hiddenkey.step.arguments import lead

INDEX: Final = "example_index"
"""The argument of a training pass that numbers its examples, ``[batch]``; it never reaches the
model."""

_ODD = (-7046029254386353131, -4658895280553007687, -7723592293110705685)  # of SplitMix64


@dataclass(frozen=True)
class Identities:
    """Who the examples of one batch are.

    Attributes:
        keys: one number for each sequence of the batch.
        contents: hashes of what they hold.
        are_numbered: whether the keys are the script's own numbers.
    """

    keys: list[int]
    contents: list[int]
    are_numbered: bool


def identities(
    arguments: Mapping[str, Any], index: Tensor | None, padding: int | None = None
) -> Identities:
    """Return who the examples of a training pass are. Waits for the device.

    Args:
        arguments: of the pass, by name.
        index: ``[batch]`` whole numbers, the script's own; ``None``: the examples' hashes.
        padding: the token that batches are padded with.

    Raises:
        ConsistencyError: if there is not one number for each example.
    """
    contents = content_hash(arguments, padding)
    if index is None:
        hashes: list[int] = contents.tolist()
        return Identities(hashes, hashes, are_numbered=False)
    if index.is_floating_point() or index.shape != contents.shape:
        raise ConsistencyError(
            f"{INDEX} must hold one whole number for each of the {len(contents)} examples of the"
            f" batch, got {index.dtype} of shape {list(index.shape)}; leave it out to recognise"
            " examples by what they hold"
        )
    keys, hashes = torch.stack([index.to(contents.device, torch.int64), contents]).tolist()
    return Identities(keys, hashes, are_numbered=True)


def content_hash(arguments: Mapping[str, Any], padding: int | None = None) -> Tensor:
    """Return a hash of each example, int64 ``[batch]``.

    Args:
        arguments: of a model call, by name.
        padding: the token that batches are padded with, where no mask says what is padding.

    Raises:
        ConsistencyError: if the call has neither tokens nor other features of a batch.
    """
    given = lead(arguments)
    entries = _whole_numbers(given).flatten(1)
    visible = _visible(arguments, given, padding).expand(given.shape).flatten(1)
    places = visible.cumsum(1)
    return (_mixed(entries) * _mixed(places) * visible).sum(1)


def _visible(arguments: Mapping[str, Any], given: Tensor, padding: int | None) -> Tensor:
    """Mark what is no padding; broadcasts to the given features."""
    mask = arguments.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == given.shape[: mask.dim()]:
        missing: tuple[int, ...] = (1,) * (given.dim() - mask.dim())
        return mask.bool().view(*mask.shape, *missing)
    if padding is None or given.is_floating_point():
        return torch.ones((), dtype=torch.bool, device=given.device)
    return given != padding


def _whole_numbers(given: Tensor) -> Tensor:
    """Return the bits of floating-point features, and tokens as they are; as int64."""
    if given.is_floating_point():
        given = given.detach().contiguous().float().view(torch.int32)
    return given.to(torch.int64)


def _mixed(numbers: Tensor) -> Tensor:
    """Spread whole numbers over 64 bits, by two rounds of SplitMix64; overflow is meant."""
    mixed = numbers * _ODD[0] + _ODD[1]
    mixed = (mixed ^ ((mixed >> 30) & (2**34 - 1))) * _ODD[1]
    return (mixed ^ ((mixed >> 27) & (2**37 - 1))) * _ODD[2] | 1
