"""Attention drops inside kernels that compute no map and take no mask: FlashAttention's.

The value column of :mod:`hiddenkey.attention.fused` needs neither. Query, key and value become
eight columns wider, for a kernel wants equal widths and multiples of eight; where that is more than
it takes, a second pass computes the kept weight. The kernel's own function is called as
transformers would call it, with padding, sliding window, soft cap and packed sequences as they
were.

Of several sequences in one row, which such a kernel keeps apart, each keeps its first key, and a
span is drawn within each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from hiddenkey.attention import kernels
from hiddenkey.attention.keys import VisibleKeys

NAMES: Final = ("flash_attention_2", "flash_attention_3", "flash_attention_4")
"""transformers' names of these kernels, beside those of repositories of kernels."""

COLUMNS: Final = 8
"""Widths are multiples of it."""

WIDEST: Final = 256
"""Width of heads that FlashAttention 2 takes at most."""

_RESCUE: Final = {torch.float16: 2.0**-14}
_RESCUE_OF_OTHERS: Final = 1e-28


def is_flash(name: str | None) -> bool:
    """Whether an attention implementation is one of these kernels."""
    if name is None or "|" in name:  # a paged one, for generation
        return False
    return name in NAMES or ("/" in name and "flash" in name)


@dataclass(frozen=True)
class Rows:
    """What is known of the keys of a batch.

    Attributes:
        visible: boolean ``[batch, keys]``: no padding.
        starts: boolean ``[batch, keys]``: the first key of each sequence.
        sequences: how many there are, where rows hold several; ``None`` where each holds one.
    """

    visible: Tensor
    starts: Tensor
    sequences: int | None = None

    def apart(self) -> Tensor:
        """Return the keys of each sequence, boolean ``[sequences, batch · keys]``."""
        assert self.sequences is not None
        number = self.starts.flatten().cumsum(0) - 1
        each = torch.arange(self.sequences, device=number.device)
        return (each.unsqueeze(1) == number) & self.visible.flatten()


def read_rows(key: Tensor, mask: Tensor | None, known: Mapping[str, Any]) -> Rows:
    """Return which keys are visible and where sequences begin.

    Args:
        key: ``[batch, key_heads, keys, head_dim]``.
        mask: ``[batch, keys]``, nonzero where there is no padding; ``None``: nowhere.
        known: further arguments of the attention function: ``cu_seq_lens_k``, the ends of the
            sequences of the flattened batch, or ``position_ids`` ``[1, keys]``, from 0 in each.
    """
    batch, count = key.shape[0], key.shape[2]
    if mask is not None:
        keys = VisibleKeys(mask[:, -count:].bool())
        return Rows(keys.visible, keys.first)
    visible = torch.ones(batch, count, dtype=torch.bool, device=key.device)
    first = torch.zeros_like(visible)
    first[:, 0] = True
    ends, positions = known.get("cu_seq_lens_k"), known.get("position_ids")
    if ends is not None:
        starts = torch.zeros(batch * count, dtype=torch.bool, device=key.device)
        starts[ends[:-1].long()] = True
        return Rows(visible, starts.view(batch, count), len(ends) - 1)
    if batch == 1 and positions is not None and positions.shape == (1, count):
        starts = first | (positions.diff(dim=1, prepend=positions[:, :1]) < 0)
        found = int(starts.sum())  # the kernel's own function waits for the device here too
        return Rows(visible, starts, found if found > 1 else None)
    return Rows(visible, first)


def attend(
    plain: Callable[..., tuple[Tensor, Any]],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keep: Tensor,
    *,
    scaling: float,
    stop_gradient: bool,
) -> Tensor:
    """Attention over the kept keys.

    Args:
        plain: takes query, key and value of equal widths, and the factor of the logits; returns
            ``[batch, queries, heads, width]`` first, as transformers' functions do.
        query: ``[batch, heads, queries, head_dim]``.
        key: ``[batch, key_heads, keys, head_dim]``.
        value: ``[batch, key_heads, keys, value_dim]``, no wider than ``head_dim``.
        keep: boolean ``[batch, heads, keys]``.
        scaling: factor of the logits.
        stop_gradient: True for DropAttention, False for DropKey.

    Returns:
        ``[batch, queries, heads, value_dim]``.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # masks differ by query head, and so do its values
        key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
    dtype = kernels.compute_dtype(value)
    rescue = _RESCUE.get(dtype, _RESCUE_OF_OTHERS)
    column = (keep.to(value.dtype) + rescue).unsqueeze(-1)
    width = value.shape[-1]
    wide = max(query.shape[-1], width + COLUMNS - width % COLUMNS)
    if wide <= WIDEST:
        values = torch.cat([value * column, column], -1)
        padded = (F.pad(each, (0, wide - each.shape[-1])) for each in (query, key, values))
        mixed, _ = plain(*padded, scaling)
        kept_weight = mixed[..., width : width + 1]
    else:  # no room for a column: its own pass
        mixed, _ = plain(query, key, value * column, scaling)
        kept_weight = plain(query, key, column.expand_as(value), scaling)[0][..., :1]
    if stop_gradient:
        kept_weight = kept_weight.detach()
    return mixed[..., :width] / kept_weight.clamp_min(rescue * 1e-3)
