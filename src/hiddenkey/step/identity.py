"""Who the examples of a batch are: a hash of what the model is given, or a column of numbers.

The hash covers all that decides which prediction is kept: tokens, images and further inputs, and
the places that have a label. Only visible tokens count, at their places among these, so that it is
the same whatever the batch pads a sequence to. Of sequences that are packed into one row each is an
example. Two of a million different examples are mistaken for each other with a probability of about
3e-8.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from hiddenkey import anatomy
from hiddenkey.chunked_loss.sums import IGNORED_LABEL
from hiddenkey.errors import ConsistencyError
from hiddenkey.step import caches, media
from hiddenkey.step.arguments import is_further_input, is_media, lead, lead_name
from hiddenkey.step.hashes import in_order, in_place, mixed, named, summed
from hiddenkey.step.packed import apart, packed_starts

INDEX: Final = "example_index"
"""The argument of a training pass that numbers its examples, ``[batch]``; it never reaches the
model."""

RULE: Final = 2
"""Counts up when the same example gets another hash, so that earlier ones are of no use."""

_LABELS = ("labels", "shift_labels")


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
        """Return the same examples as others, distinguished from those under another name."""
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
        holds_several = reading.by_token and not reading.writes
        starts = packed_starts(arguments) if holds_several else None
        parts = [arguments] if starts is None else apart(arguments, starts)
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
        if name != first and is_further_input(name, value, len(given)):
            _refuse_trained(name, value)
            total = total + named(name, _further_hash(name, value, arguments, reading))
    context = _context(arguments)
    if context is not None and len(context) == len(given):
        total = total + named("cache", in_place(context.to(given.device)))
    return total


def _context(arguments: Mapping[str, Any]) -> Tensor | None:
    """Return what a cache holds of texts that were read before, ``[batch, ...]``."""
    name = caches.given(arguments)
    context = None if name is None else caches.held(arguments[name])
    # a prefix that is trained is the same for all examples, and another in each step
    return None if context is None or context.requires_grad else context


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
        parts[first] = in_order(given, visible)
    written = arguments.get("decoder_input_ids")
    if isinstance(written, Tensor):
        seen = _visible(arguments, written, reading.padding, "decoder_attention_mask")
        parts["decoder_input_ids"] = in_order(written, seen)
    for name in _LABELS if reading.by_token else ():
        labels = arguments.get(name)
        if isinstance(labels, Tensor) and labels.dim() == 2 and len(labels) == len(given):
            parts[name] = _label_hash(labels.to(given.device), visible, reading)
    total = torch.zeros(len(given), dtype=torch.int64, device=given.device)
    for name, hashes in parts.items():
        total = total + named(name, hashes)
    return total


def _label_hash(labels: Tensor, visible: Tensor, reading: Reading) -> Tensor:
    """Hash where an example's labels are and, where a decoder reads them, what they are."""
    is_labelled = labels != IGNORED_LABEL
    if reading.writes or labels.shape != visible.shape:
        # counted from the first label, since a batch may pad them on either side
        places = (is_labelled.cumsum(1) > 0).cumsum(1)
        return summed(labels, places, is_labelled)
    return summed(torch.ones_like(labels), visible.cumsum(1), is_labelled & visible)


def _further_hash(
    name: str, value: Tensor, arguments: Mapping[str, Any], reading: Reading
) -> Tensor:
    given = lead(arguments)
    value = value.to(given.device)
    if is_media(name):
        return _media_hash(name, value, arguments, reading)
    visible = _visible(arguments, given, reading.padding)
    is_of_tokens = visible.dim() > 1 and value.shape[: visible.dim()] == visible.shape
    return in_order(value, visible) if is_of_tokens else in_place(value)


def _media_hash(name: str, value: Tensor, arguments: Mapping[str, Any], reading: Reading) -> Tensor:
    """Hash the images, films or sounds of each sequence, ``[batch]``; 0 without any."""
    batch = len(lead(arguments))
    rows = in_place(media.by_patch(name, value))
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
    hashes = mixed(rows) * mixed(places) * (rows != 0)
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
