"""Who the examples of a batch are: a hash of what the model is given, or a column of numbers.

The hash covers all that decides which prediction is kept: tokens, images and further inputs, and
the places that have a label. A sequence of tokens has Σ mix(tokenᵢ) · mix(i) modulo 2⁶⁴ over its
visible tokens i, so that it is the same whatever the batch pads it to. Of sequences that are packed
into one row each is an example. Two of a million different examples are mistaken for each other
with a probability of about 3e-8.
"""

from __future__ import annotations

import dataclasses
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiddenkey import anatomy
from hiddenkey.chunked_loss.sums import IGNORED_LABEL
from hiddenkey.errors import ConsistencyError
from hiddenkey.step import media
from hiddenkey.step.arguments import is_media, lead, lead_name

INDEX: Final = "example_index"
"""The argument of a training pass that numbers its examples, ``[batch]``; it never reaches the
model."""

RULE: Final = 2
"""Counts up when the same example gets another hash, so that earlier ones are of no use."""

_LABELS = ("labels", "shift_labels")
# What follows from the other inputs and changes with a batch's padding, or decides no prediction.
_NO_INPUT = (
    *("position_ids", "decoder_position_ids", "cache_position", "decoder_input_ids"),
    *("start_positions", "end_positions", "num_items_in_batch", "seq_idx"),
)
_NO_INPUT_INSIDE = ("attention_mask", "label", "weight")
_AT_ONCE = 2**20  # entries: a hash takes several times 8 bytes for each
_ODD = (-7046029254386353131, -4658895280553007687, -7723592293110705685)  # of SplitMix64


@dataclass(frozen=True)
class Identities:
    """Who the examples of one batch are.

    Attributes:
        keys: one number for each sequence of the batch.
        contents: hashes of what they hold.
        are_numbered: whether the keys are the script's own numbers.
        starts: boolean ``[batch, tokens]``, where examples begin if rows hold several; ``None``:
            each row is one.
    """

    keys: list[int]
    contents: list[int]
    are_numbered: bool
    starts: Tensor | None = None

    def under(self, name: str) -> Identities:
        """Return the same examples as others, to be told apart from those under another name."""
        digest = hashlib.sha256(name.encode()).digest()
        salt = int.from_bytes(digest[:8], "little", signed=True)
        return dataclasses.replace(self, keys=[key ^ salt for key in self.keys])


@dataclass(frozen=True)
class Reading:
    """How one model reads its arguments.

    Attributes:
        padding: the token that batches are padded with, where no mask says what is padding.
        by_token: whether its labels mark the tokens whose prediction is kept.
        writes: whether a decoder reads the labels, so that they decide its predictions.
        placeholders: the tokens that stand for images, films and sounds in its texts.
    """

    padding: int | None = None
    by_token: bool = False
    writes: bool = False
    placeholders: Mapping[media.Kind, int] = field(default_factory=dict)


def reading_of(transformer: nn.Module, *, by_token: bool) -> Reading:
    """Return how a model reads its arguments.

    Args:
        transformer: the model.
        by_token: whether its labels mark the tokens whose prediction is kept.
    """
    return Reading(
        padding=getattr(anatomy.text_config(transformer), "pad_token_id", None),
        by_token=by_token,
        writes=by_token and anatomy.task_of(transformer) == "ForConditionalGeneration",
        placeholders=media.placeholders(getattr(transformer, "config", None)),
    )


def identities(
    arguments: Mapping[str, Any], index: Tensor | None, reading: Reading | None = None
) -> Identities:
    """Return who the examples of a training pass are. Waits for the device.

    Args:
        arguments: of the pass, by name.
        index: ``[batch]`` whole numbers, the script's own; ``None``: the examples' hashes.
        reading: how the model reads them.

    Raises:
        ConsistencyError: if there is not one number for each example, or none is given and the
            arguments do not say which example is which.
    """
    reading = reading or Reading()
    if index is None:
        starts = packed_starts(arguments, reading)
        parts = [arguments] if starts is None else _apart(arguments, starts)
        hashes: list[int] = torch.cat([content_hash(each, reading) for each in parts]).tolist()
        return Identities(hashes, hashes, are_numbered=False, starts=starts)
    contents = text_hash(arguments, reading)
    if index.is_floating_point() or index.shape != contents.shape:
        raise ConsistencyError(
            f"{INDEX} must hold one whole number for each of the {len(contents)} examples of the"
            f" batch, got {index.dtype} of shape {list(index.shape)}; leave it out to recognise"
            " examples by what they hold"
        )
    keys, hashes = torch.stack([index.to(contents.device, torch.int64), contents]).tolist()
    return Identities(keys, hashes, are_numbered=True)


def packed_starts(arguments: Mapping[str, Any], reading: Reading) -> Tensor | None:
    """Find where texts begin that are packed into one row, boolean ``[batch, tokens]``.

    As attention does, by ``position_ids`` that begin anew, in a batch without a mask. A row counts
    as one example where that does not say what belongs to whom: if a text's first token is to be
    predicted from the text before, or a further input is of whole rows.

    Args:
        arguments: of a model call, by name.
        reading: how the model reads them.

    Returns:
        ``None`` if each row is one example.
    """
    places, tokens = arguments.get("position_ids"), arguments.get("input_ids")
    if not isinstance(places, Tensor) or not isinstance(tokens, Tensor):
        return None
    is_packable = reading.by_token and not reading.writes and places.shape == tokens.shape
    if not is_packable or tokens.dim() != 2 or arguments.get("attention_mask") is not None:
        return None
    starts = places.diff(dim=1, prepend=places[:, :1]).to(tokens.device) != 1
    if not starts[:, 1:].any() or _crosses(arguments, starts):
        return None
    inputs = [name for name, value in arguments.items() if _is_input(name, value, len(tokens))]
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


def _apart(arguments: Mapping[str, Any], starts: Tensor) -> Iterator[dict[str, Tensor]]:
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
        if isinstance(value, Tensor) and value.shape[:2] == starts.shape and name not in _NO_INPUT
    }
    given["attention_mask"] = torch.ones_like(number)
    at_once = max(1, _AT_ONCE // int(lengths.max()))
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


def content_hash(arguments: Mapping[str, Any], reading: Reading) -> Tensor:
    """Return a hash of all that decides an example's prediction, int64 ``[batch]``.

    Args:
        arguments: of a model call, by name.
        reading: how the model reads them.

    Raises:
        ConsistencyError: if the call has neither tokens nor other features of a batch, if they are
            computed by trained weights, or if nobody can say whose an image is.
    """
    total = text_hash(arguments, reading)
    first = lead_name(arguments)
    given: Tensor = arguments[first]
    _refuse_trained(first, given)
    for name, value in arguments.items():
        if name != first and _is_input(name, value, len(given)):
            _refuse_trained(name, value)
            total = total + _named(name, _further_hash(name, value, arguments, reading))
    return total


def text_hash(arguments: Mapping[str, Any], reading: Reading) -> Tensor:
    """Return a hash of what is the same in any batch, int64 ``[batch]``.

    It checks an example that has a number: whose an image is can depend on the batch, and features
    that trained weights compute are others in each step, but neither is another example.

    Args:
        arguments: of a model call, by name.
        reading: how the model reads them.

    Raises:
        ConsistencyError: if the call has neither tokens nor other features of a batch.
    """
    first = lead_name(arguments)
    given: Tensor = arguments[first]
    visible = _visible(arguments, given, reading.padding)
    parts = {}
    if not _is_trained(given):
        parts[first] = _in_order(given, visible)
    written = arguments.get("decoder_input_ids")
    if isinstance(written, Tensor):
        seen = _visible(arguments, written, reading.padding, "decoder_attention_mask")
        parts["decoder_input_ids"] = _in_order(written, seen)
    for name in _LABELS if reading.by_token else ():
        labels = arguments.get(name)
        if isinstance(labels, Tensor) and labels.dim() == 2 and len(labels) == len(given):
            parts[name] = _label_hash(labels.to(given.device), visible, reading)
    total = torch.zeros(len(given), dtype=torch.int64, device=given.device)
    for name, hashes in parts.items():
        total = total + _named(name, hashes)
    return total


def _label_hash(labels: Tensor, visible: Tensor, reading: Reading) -> Tensor:
    """Hash where an example's labels are and, where a decoder reads them, what they are."""
    is_labelled = labels != IGNORED_LABEL
    if reading.writes or labels.shape != visible.shape:
        # counted from the first label, since a batch may pad them on either side
        places = (is_labelled.cumsum(1) > 0).cumsum(1)
        return _summed(labels, places, is_labelled)
    return _summed(torch.ones_like(labels), visible.cumsum(1), is_labelled & visible)


def _is_input(name: str, value: Any, batch: int) -> bool:
    """Whether an argument, beside the first, says something of the examples of the batch."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return False
    if is_media(name):
        return True
    is_other = name in _NO_INPUT or any(part in name for part in _NO_INPUT_INSIDE)
    return len(value) == batch and not is_other


def _further_hash(
    name: str, value: Tensor, arguments: Mapping[str, Any], reading: Reading
) -> Tensor:
    given = lead(arguments)
    value = value.to(given.device)
    if is_media(name):
        return _media_hash(name, value, arguments, reading)
    visible = _visible(arguments, given, reading.padding)
    is_of_tokens = visible.dim() > 1 and value.shape[: visible.dim()] == visible.shape
    return _in_order(value, visible) if is_of_tokens else _in_place(value)


def _media_hash(name: str, value: Tensor, arguments: Mapping[str, Any], reading: Reading) -> Tensor:
    """Hash the images, films or sounds of each sequence, ``[batch]``; 0 without any."""
    batch = len(lead(arguments))
    rows = _in_place(media.by_patch(name, value))
    texts = media.at_placeholders(arguments, reading.placeholders, name)
    counts = media.rows_of_each(rows, texts, batch)
    if counts is None:
        raise ConsistencyError(
            f"temporal consistency recognises an example by what it holds, but {name} of shape"
            f" {list(value.shape)} is not laid out by the {batch} sequences of the batch, and their"
            f" tokens do not say whose each row is; give each example a number in a column {INDEX},"
            " use batches of one, or target='pass'"
        )
    own, places = media.per_sequence(rows, counts)
    hashes = _mixed(rows) * _mixed(places) * (rows != 0)
    return torch.zeros(batch, dtype=torch.int64, device=rows.device).index_add(0, own, hashes)


def _is_trained(value: Tensor) -> bool:
    """Whether features change in each step, as those do that contain a trained prompt."""
    return value.requires_grad and (not value.is_leaf or isinstance(value, nn.Parameter))


def _refuse_trained(name: str, value: Tensor) -> None:
    if _is_trained(value):
        raise ConsistencyError(
            f"temporal consistency recognises an example by what the model is given, but {name} is"
            " computed by weights that are trained, as prompt tuning and P-tuning do, so that it is"
            f" another one in every step; give each example a number in a column {INDEX}, or use"
            " target='pass'"
        )


def _visible(
    arguments: Mapping[str, Any],
    given: Tensor,
    padding: int | None,
    name: str = "attention_mask",
) -> Tensor:
    """Mark the tokens, or the given features' first two dimensions, that are no padding."""
    shape = given.shape[:2] if given.is_floating_point() else given.shape
    mask = arguments.get(name)
    if isinstance(mask, Tensor) and mask.shape == shape:
        return mask.to(given.device).bool()
    if padding is None or given.is_floating_point():
        return torch.ones(shape, dtype=torch.bool, device=given.device)
    return given != padding


def _in_order(value: Tensor, visible: Tensor) -> Tensor:
    """Hash visible entries at their places among these, ``[batch]``.

    Args:
        value: ``[batch, tokens, ...]``.
        visible: ``[batch, tokens]``.
    """
    missing = (1,) * (value.dim() - visible.dim())
    entries = visible.view(*visible.shape, *missing).expand(value.shape).flatten(1)
    return _summed(value.flatten(1), entries.cumsum(1), entries)


def _in_place(value: Tensor) -> Tensor:
    """Hash entries at their places in each row, ``[rows]``.

    Zeros and negative whole numbers count nothing: they fill rows up, at the end of any dimension.
    """
    places = torch.zeros((), dtype=torch.int64, device=value.device)
    for dimension, size in enumerate(value.shape[1:]):
        numbers = _mixed(torch.arange(size, device=value.device) + (dimension << 32))
        places = places.unsqueeze(-1) + numbers
    at_once = max(1, _AT_ONCE // max(1, value.shape[1:].numel()))
    return torch.cat(
        [
            _summed(part, places, part != 0 if part.is_floating_point() else part > 0)
            for part in torch.split(value, at_once)
        ]
    )


def _summed(entries: Tensor, places: Tensor, counted: Tensor) -> Tensor:
    """Return Σ mix(entry) · mix(place) over the entries that count, ``[rows]``."""
    hashes = _mixed(_whole_numbers(entries)) * _mixed(places) * counted
    return hashes.sum(tuple(range(1, hashes.dim()))) if hashes.dim() > 1 else hashes


def _named(name: str, hashes: Tensor) -> Tensor:
    """Return hashes of one argument; 0 stays 0, as where a text has no image."""
    return _mixed(hashes + zlib.crc32(name.encode())) * (hashes != 0)


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
