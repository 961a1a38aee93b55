"""Examples that are packed into one row of a batch, each found by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hiddenkey.chunked_loss.sums import IGNORED_LABEL
from hiddenkey.step.arguments import NO_INPUT, is_further_input, is_media
from hiddenkey.step.hashes import AT_ONCE


def packed_starts(arguments: Mapping[str, Any]) -> Tensor | None:
    """Find where texts begin that are packed into one row, boolean ``[batch, tokens]``.

    As attention does, by ``position_ids`` that begin anew, in a batch without a mask. A row counts
    as one example where that does not say what belongs to whom: if a text's first token is to be
    predicted from the text before, or a further input is of whole rows.

    Args:
        arguments: of a model call, by name.

    Returns:
        ``None`` if each row is one example.
    """
    places, tokens = arguments.get("position_ids"), arguments.get("input_ids")
    if not isinstance(places, Tensor) or not isinstance(tokens, Tensor):
        return None
    if places.shape != tokens.shape or tokens.dim() != 2:
        return None
    if arguments.get("attention_mask") is not None:
        return None
    starts = places.diff(dim=1, prepend=places[:, :1]).to(tokens.device) != 1
    if not starts[:, 1:].any() or _crosses(arguments, starts):
        return None
    inputs = [
        name for name, value in arguments.items() if is_further_input(name, value, len(tokens))
    ]
    if any(is_media(name) or arguments[name].shape[:2] != tokens.shape for name in inputs):
        return None
    return starts


def _crosses(arguments: Mapping[str, Any], starts: Tensor) -> bool:
    """Whether the last token of a text, which is followed by another one, is to predict it."""
    given, shifted = arguments.get("labels"), arguments.get("shift_labels")
    labels = given[:, 1:] if shifted is None and given is not None else shifted
    if labels is None:
        return False
    at_ends = starts[:, 1:] & (labels[:, : starts.shape[1] - 1] != IGNORED_LABEL).to(starts.device)
    return bool(at_ends.any())


def apart(arguments: Mapping[str, Any], starts: Tensor) -> Iterator[dict[str, Tensor]]:
    """Give each packed text a row of its own, a few at a time.

    Args:
        arguments: of a model call, by name.
        starts: boolean ``[batch, tokens]``.

    Yields:
        Of all inputs ``[texts, longest, ...]``, with a mask, as in a batch that is not packed.
    """
    number = starts.flatten().cumsum(0) - 1
    lengths = number.bincount()
    place = torch.arange(len(number), device=number.device) - (lengths.cumsum(0) - lengths)[number]
    given = {
        name: value.flatten(0, 1).to(number.device)
        for name, value in arguments.items()
        if isinstance(value, Tensor) and value.shape[:2] == starts.shape and name not in NO_INPUT
    }
    given["attention_mask"] = torch.ones_like(number)
    at_once = max(1, AT_ONCE // int(lengths.max()))
    for first in range(0, len(lengths), at_once):
        taken = (number >= first) & (number < first + at_once)
        shape = len(lengths[first : first + at_once]), int(lengths.max())
        where = number[taken] - first, place[taken]
        yield {
            name: value.new_zeros(*shape, *value.shape[1:]).index_put_(where, value[taken])
            for name, value in given.items()
        }


def per_example(units: Tensor, starts: Tensor | None) -> list[int]:
    """Count units by example. Waits for the device.

    Args:
        units: boolean ``[batch, tokens]``; the last ones, if they are fewer than the batch's.
        starts: boolean ``[batch, tokens]``, where examples begin; ``None``: each row is one.
    """
    if starts is None:
        counts: list[int] = units.sum(1).tolist()
        return counts
    units = F.pad(units, (starts.shape[1] - units.shape[1], 0)).flatten().long()
    number = (starts.flatten().cumsum(0) - 1).to(units.device)
    counts = torch.zeros_like(number[: int(number[-1]) + 1]).index_add(0, number, units).tolist()
    return counts
