"""Batches with padding, made from one without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from hiddenkey.chunked_loss.sums import IGNORED_LABEL
from hiddenkey.testing.passes import Batch


def named_batches(batches: Mapping[str, Batch] | Batch, transformer: nn.Module) -> dict[str, Batch]:
    """Return several batches by name; one that came alone is joined by padded ones."""
    if all(isinstance(batch, Mapping) for batch in batches.values()):
        return dict(cast(Mapping[str, Batch], batches))
    config: Any = getattr(transformer, "config", None)
    return padded_batches(
        batches,
        pad_token=getattr(config, "pad_token_id", None),
        shared_labels=not getattr(config, "is_encoder_decoder", False),
    )


def padded_batches(
    batch: Batch, *, pad_token: int | None = None, shared_labels: bool = True
) -> dict[str, Batch]:
    """Make batches with padding from one batch of text.

    Every other sequence is shortened, or in the last batch left with a single token. Batches
    without ``input_ids`` ``[batch, tokens]`` stay alone.

    Args:
        batch: arguments of a model, with ``input_ids``.
        pad_token: what padding shows in ``input_ids``; ``None`` leaves them as they are.
        shared_labels: labels of the shape of ``input_ids`` belong to the same tokens, and those of
            padding count nothing; not so in an encoder-decoder.

    Returns:
        ``plain``, the batch as it is, ``padded right``, ``padded left``, ``almost all padding``.
    """
    ids = batch.get("input_ids")
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.shape[1] < 3:
        return {"plain": batch}
    tokens = ids.shape[1]
    mask = torch.ones_like(ids)
    given = batch.get("attention_mask")
    short, one = mask.clone(), mask.clone()
    short[1::2, tokens - tokens // 3 :] = 0
    one[1::2, 1:] = 0
    masks = {"padded right": short, "padded left": short.flip(1), "almost all padding": one}
    if isinstance(given, Tensor) and given.shape == mask.shape:
        masks = {name: made * given for name, made in masks.items()}
    padded = {
        name: _with_mask(batch, made, pad_token, shared_labels) for name, made in masks.items()
    }
    return {"plain": batch, **padded}


def _with_mask(batch: Batch, mask: Tensor, pad_token: int | None, shared_labels: bool) -> Batch:
    found = {**batch, "attention_mask": mask}
    if pad_token is not None:
        found["input_ids"] = batch["input_ids"].masked_fill(mask == 0, pad_token)
    labels = batch.get("labels")
    if shared_labels and isinstance(labels, Tensor) and labels.shape == mask.shape:
        # a shifted label is predicted from the token before it, which must not be padding
        unseen = (mask == 0) | (mask.cumsum(1) <= 1)
        found["labels"] = labels.masked_fill(unseen, IGNORED_LABEL)
    return found
