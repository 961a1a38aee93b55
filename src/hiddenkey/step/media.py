"""Which images, films and sounds of a batch belong to which of its sequences.

Models take a row of media for each sequence, for each image of the batch, or for each patch of all
images. Where a text has placeholder tokens for them, these say whose a row is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import torch
from torch import Tensor

Kind = Literal["image", "video", "audio"]
_KINDS: Final[tuple[Kind, ...]] = ("image", "video", "audio")
_GRID: Final = "_grid_thw"


def placeholders(config: Any) -> dict[Kind, int]:
    """Return the token that stands for each kind of media in a text, where a model has one."""
    found: dict[Kind, int] = {}
    for kind in _KINDS:
        for name in (f"{kind}_token_id", f"{kind}_token_index"):
            token = getattr(config, name, None)
            if isinstance(token, int):
                found[kind] = token
    return found


def kind_of(name: str) -> Kind:
    """Return what an argument of a model call holds, by its name."""
    if "video" in name or name.startswith("second_per_grid"):
        return "video"
    return "audio" if name.startswith(("audio_", "input_features", "feature_")) else "image"


def by_patch(name: str, value: Tensor) -> Tensor:
    """Return a grid of patches, ``[images, 3]``, once for each patch; other media as they are."""
    if not name.endswith(_GRID) or value.dim() != 2:
        return value
    return value.repeat_interleave(value.prod(-1), 0)


def rows_of_each(rows: Tensor, texts: Tensor | None, batch: int) -> Tensor | None:
    """Return how many rows of media belong to each sequence, ``[batch]``, in the order given.

    Waits for the device.

    Args:
        rows: ``[rows]``, 0 where a row is empty, as one that fills up a batch.
        texts: ``[batch, tokens]``, True at the placeholders; ``None``: there are none.
        batch: the number of sequences.

    Returns:
        ``None`` if it cannot be known.
    """
    total = len(rows)
    if batch == 1:
        return torch.tensor([total], device=rows.device)
    tokens = None if texts is None else texts.sum(1)
    if total == batch and (tokens is None or bool(((tokens > 0) | (rows == 0)).all())):
        return torch.ones_like(rows)  # each sequence has one, so that none has two
    if texts is None or tokens is None:
        return None
    return _by_placeholders(texts, tokens, total)


def _by_placeholders(texts: Tensor, tokens: Tensor, total: int) -> Tensor | None:
    """Return the rows of each sequence by the placeholders in it, ``[batch]``."""
    before = torch.nn.functional.pad(texts[:, :-1], (1, 0))
    starts = (texts & ~before).sum(1)
    if starts.sum() == total:
        return starts  # one after the other, with other tokens between them
    placed = int(tokens.sum())
    if placed == 0 or total == 0:
        return None
    if total % placed == 0:
        return tokens * (total // placed)  # patches, of which a token stands for several
    each = placed // total
    if placed % total == 0 and _are_multiples(texts, each):
        return tokens // each  # images that all have as many tokens
    return None


def _are_multiples(texts: Tensor, each: int) -> bool:
    """Whether all unbroken runs of True have a multiple of so many."""
    edges = torch.nn.functional.pad(texts.to(torch.int8), (1, 1)).diff(dim=1).flatten()
    lengths = (edges == -1).nonzero() - (edges == 1).nonzero()
    return bool((lengths % each == 0).all())


def per_sequence(rows: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return whose each row is, and its place among those of the same sequence, ``[rows]``.

    Args:
        rows: ``[rows]`` of the batch's media.
        counts: ``[batch]``, from :func:`rows_of_each`.
    """
    own = torch.arange(len(counts), device=rows.device).repeat_interleave(counts)
    first = (counts.cumsum(0) - counts)[own]
    return own, torch.arange(len(rows), device=rows.device) - first


def at_placeholders(
    arguments: Mapping[str, Any], tokens: Mapping[Kind, int], name: str
) -> Tensor | None:
    """Mark where a batch's texts have placeholders for an argument, ``[batch, tokens]``."""
    texts, token = arguments.get("input_ids"), tokens.get(kind_of(name))
    if not isinstance(texts, Tensor) or texts.dim() != 2 or token is None:
        return None
    return texts == token
