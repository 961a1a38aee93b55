"""Hashes of whole numbers and features, by rows, as 64-bit sums that any batch gives alike.

A row has Σ mix(entry) · mix(place) modulo 2⁶⁴ over the entries that count, so that it is the same
whatever the batch pads it to.
"""

from __future__ import annotations

import zlib
from typing import Final

import torch
from torch import Tensor

AT_ONCE: Final = 2**20
"""Entries that are hashed together; a hash takes several times 8 bytes for each."""

_ODD = (-7046029254386353131, -4658895280553007687, -7723592293110705685)  # of SplitMix64


def in_order(value: Tensor, visible: Tensor) -> Tensor:
    """Hash visible entries at their places among these, ``[batch]``.

    Args:
        value: ``[batch, tokens, ...]``.
        visible: ``[batch, tokens]``.
    """
    missing = (1,) * (value.dim() - visible.dim())
    entries = visible.view(*visible.shape, *missing).expand(value.shape).flatten(1)
    return summed(value.flatten(1), entries.cumsum(1), entries)


def in_place(value: Tensor) -> Tensor:
    """Hash entries at their places in each row, ``[rows]``.

    Zeros and negative whole numbers count nothing: they fill rows up, at the end of any dimension.
    """
    places = torch.zeros((), dtype=torch.int64, device=value.device)
    for dimension, size in enumerate(value.shape[1:]):
        numbers = mixed(torch.arange(size, device=value.device) + (dimension << 32))
        places = places.unsqueeze(-1) + numbers
    at_once = max(1, AT_ONCE // max(1, value.shape[1:].numel()))
    return torch.cat(
        [
            summed(part, places, part != 0 if part.is_floating_point() else part > 0)
            for part in torch.split(value, at_once)
        ]
    )


def summed(entries: Tensor, places: Tensor, counted: Tensor) -> Tensor:
    """Return Σ mix(entry) · mix(place) over the entries that count, ``[rows]``."""
    hashes = mixed(_whole_numbers(entries)) * mixed(places) * counted
    return hashes.sum(tuple(range(1, hashes.dim()))) if hashes.dim() > 1 else hashes


def named(name: str, hashes: Tensor) -> Tensor:
    """Return hashes of one argument; 0 stays 0, as where a text has no image."""
    return mixed(hashes + zlib.crc32(name.encode())) * (hashes != 0)


def _whole_numbers(given: Tensor) -> Tensor:
    """Return the bits of floating-point features, and tokens as they are; as int64."""
    if given.is_floating_point():
        given = given.detach().contiguous().float().view(torch.int32)
    return given.to(torch.int64)


def mixed(numbers: Tensor) -> Tensor:
    """Spread whole numbers over 64 bits, by two rounds of SplitMix64; overflow is meant."""
    bits = numbers * _ODD[0] + _ODD[1]
    bits = (bits ^ ((bits >> 30) & (2**34 - 1))) * _ODD[1]
    return (bits ^ ((bits >> 27) & (2**37 - 1))) * _ODD[2] | 1
