"""Batches that a tiny model can be trained on: two tasks' labels, padded on either side."""

from __future__ import annotations

import inspect
from typing import Any, Final

import torch
from torch import Tensor

from hiddenkey.chunked_loss.sums import IGNORED_LABEL
from model_tables.model_types import Task
from model_tables.sizes import HIDDEN, IMAGE, VOCABULARY

SEQUENCES: Final = 4
TOKENS: Final = 16
TARGETS: Final = 12
"""Another length than that of the sequences: cross-attention is known by its shape."""
STATES: Final = 10
LABELS: Final = 3
_FIRST_ID: Final = 10
_LAST_ID: Final = 100
"""Ids between these are no special token: the tiny vocabulary has those at both ends."""


def make_batch(
    model: Any, task: Task, side: str, *, tokens: int = TOKENS, targets: int = TARGETS
) -> dict[str, Tensor]:
    """Draw a batch for a model.

    Args:
        model: a model with a vocabulary of :data:`model_tables.sizes.VOCABULARY` words.
        task: which labels it gets.
        side: ``right`` or ``left``, where padding goes. Images have none.
        tokens: length of the longest sequence; the shortest is three quarters of it.
        targets: length of the longest target of an encoder-decoder.
    """
    draws = torch.Generator().manual_seed(0)
    reads_pixels = model.main_input_name == "pixel_values"
    if task == "image" and reads_pixels:
        return {**_images(model, draws), "labels": _classes(draws)}
    pad = _pad(model.config)
    ids, mask = _sequences(draws, tokens, side, pad)
    batch = {"input_ids": ids, "attention_mask": mask}
    if task in ("classification", "image"):
        batch["labels"] = _classes(draws)
    elif model.config.is_encoder_decoder:
        goal, seen = _sequences(draws, targets, "right", pad)
        batch["labels"] = goal.masked_fill(seen == 0, IGNORED_LABEL)
    elif model.config.model_type.startswith("musicgen"):
        return _codes(model.config, ids, mask)
    else:
        # the first visible token has nothing before it to be predicted from
        first = mask.cumsum(-1) <= 1
        batch["labels"] = ids.masked_fill((mask == 0) | first, IGNORED_LABEL)
    return batch


def with_images(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the images to a batch of text, for a model that does not run without."""
    return {**batch, **_images(model, torch.Generator().manual_seed(0))}


def with_states(model: Any, batch: dict[str, Tensor], argument: str) -> dict[str, Any]:
    """Add the states that cross-attention looks at, ``[batch, states, width]``."""
    draws = torch.Generator().manual_seed(0)
    states = torch.randn((SEQUENCES, STATES, HIDDEN), generator=draws)
    return {**batch, argument: (states,) if argument == "encoder_outputs" else states}


def _sequences(draws: torch.Generator, tokens: int, side: str, pad: int) -> tuple[Tensor, Tensor]:
    ids = torch.randint(_FIRST_ID, _LAST_ID, (SEQUENCES, tokens), generator=draws)
    mask = torch.ones_like(ids)
    for row in range(1, SEQUENCES):
        mask[row, tokens - row * (tokens // 4) // (SEQUENCES - 1) :] = 0
    if side == "left":
        mask = mask.flip(-1)
    return ids.masked_fill(mask == 0, pad), mask


def _pad(config: Any) -> int:
    pad = getattr(config.get_text_config(), "pad_token_id", None)
    return pad if isinstance(pad, int) and 0 <= pad < VOCABULARY else 0


def _codes(config: Any, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return a batch of a decoder of sounds, whose words are several codes each."""
    books = config.num_codebooks
    ids = ids.clamp(max=VOCABULARY - 1).repeat_interleave(books, 0)
    codes = ids.reshape(SEQUENCES, books, -1).transpose(1, 2)
    labels = codes.masked_fill(mask[..., None] == 0, IGNORED_LABEL)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _images(model: Any, draws: torch.Generator) -> dict[str, Tensor]:
    config = getattr(model.config, "vision_config", model.config)
    size = getattr(config, "image_size", IMAGE)
    height, width = (size, size) if isinstance(size, int) else size
    channels = getattr(config, "num_channels", 3)
    if "spatial_shapes" not in inspect.signature(model.forward).parameters:
        return {"pixel_values": torch.randn((SEQUENCES, channels, height, width), generator=draws)}
    # images of several shapes come as a list of patches
    side, patch = int(config.num_patches**0.5), config.patch_size
    return {
        "pixel_values": torch.randn((SEQUENCES, side**2, channels * patch**2), generator=draws),
        "pixel_attention_mask": torch.ones((SEQUENCES, side**2), dtype=torch.long),
        "spatial_shapes": torch.full((SEQUENCES, 2), side),
    }


def _classes(draws: torch.Generator) -> Tensor:
    return torch.randint(0, LABELS, (SEQUENCES,), generator=draws)
