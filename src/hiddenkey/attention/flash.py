"""Attention drops inside kernels that compute no map and take no mask: FlashAttention's.

The value column of :mod:`hiddenkey.attention.fused` needs neither. Query, key and value become
eight columns wider, for a kernel wants equal widths and multiples of eight; where that is more than
it takes, a second pass computes the kept weight. The kernel's own function is called as
transformers would call it, with padding, sliding window, soft cap, sinks and packed sequences as
they were.

A sink takes a part of each query's weight and is never dropped (GPT-OSS). The kernel does not say
how large that part is, so the dropped keys get a column as well: what is kept, sink included, is
all that they do not have.

Of several sequences in one row, which such a kernel keeps apart, each keeps its first key, and a
span is drawn within each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

from hiddenkey.attention import kernels
from hiddenkey.attention.keys import VisibleKeys

NAMES: Final = ("flash_attention_2", "flash_attention_3", "flash_attention_4")
"""transformers' names of these kernels, beside those of repositories of kernels."""

WIDEST: Final = 256
"""Width of heads that FlashAttention 2 takes at most."""

_RESCUE: Final = {torch.float16: 2.0**-14}
_RESCUE_OF_OTHERS: Final = 1e-28


def rescue_of(dtype: torch.dtype) -> float:
    """Return the weight of dropped keys: what the values' type can hold beside a kept key's 1."""
    return _RESCUE.get(dtype, _RESCUE_OF_OTHERS)


def is_flash(name: str | None) -> bool:
    """Whether an attention implementation is one of these kernels."""
    if name is None or "|" in name:  # a paged one, for generation
        return False
    return name in NAMES or ("/" in name and "flash" in name)


# All layers are handed the same mask, lengths or positions.
_READ: MutableMapping[Tensor, tuple[int, VisibleKeys]] = WeakIdKeyDictionary()


def read_keys(key: Tensor, mask: Tensor | None, known: Mapping[str, Any]) -> VisibleKeys:
    """Return which keys are visible and where sequences begin.

    Args:
        key: ``[batch, key_heads, keys, head_dim]``.
        mask: ``[batch, keys]``, nonzero where there is no padding; ``None``: nowhere.
        known: further arguments of the attention function, see :func:`read_rows`.
    """
    shape = torch.Size((key.shape[0], key.shape[2]))
    return read_rows(shape, key.device, mask, known)


def read_rows(
    shape: torch.Size, device: torch.device, mask: Tensor | None, known: Mapping[str, Any]
) -> VisibleKeys:
    """Return which keys are visible and where sequences begin.

    Args:
        shape: ``[batch, keys]``.
        device: of the keys.
        mask: of that shape, nonzero where there is no padding; ``None``: nowhere.
        known: ``cu_seq_lens_k``, the ends of the sequences of the flattened batch, or
            ``position_ids`` ``[1, keys]``, from 0 in each.
    """
    ends, positions = known.get("cu_seq_lens_k"), known.get("position_ids")
    if shape[0] != 1 or positions is None or positions.shape != shape:
        positions = None  # the kernel's own function reads one row alone
    source = next((each for each in (mask, ends, positions) if each is not None), None)
    if source is None or torch.compiler.is_compiling():
        return _read(shape, device, mask, ends, positions)
    version, keys = _READ.get(source, (-1, None))
    if keys is None or version != source._version or keys.visible.shape != shape:
        keys = _read(shape, device, mask, ends, positions)
        _READ[source] = (source._version, keys)
    return keys


def _read(
    shape: torch.Size,
    device: torch.device,
    mask: Tensor | None,
    ends: Tensor | None,
    positions: Tensor | None,
) -> VisibleKeys:
    if mask is not None:
        return VisibleKeys(mask[:, -shape[1] :] != 0)  # no view of the mask, which would never go
    visible = torch.ones(shape, dtype=torch.bool, device=device)
    if ends is None and positions is None:
        return VisibleKeys(visible)
    starts = torch.zeros_like(visible)
    if ends is not None:
        starts.view(-1).index_fill_(0, ends[:-1].long(), True)  # not by index_put, which waits
    elif positions is not None:
        starts |= positions == 0
    starts[:, 0] = True
    return VisibleKeys(visible, starts)


def attend(
    plain: Callable[..., tuple[Tensor, Any]],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keep: Tensor,
    *,
    scaling: float,
    stop_gradient: bool,
    has_sinks: bool = False,
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
        has_sinks: whether the kernel's weights of a query's keys sum to less than 1.

    Returns:
        ``[batch, queries, heads, value_dim]``.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # masks differ by query head, and so do its values
        key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
    rescue = rescue_of(kernels.compute_dtype(value))
    columns = columns_of(keep, value.dtype, rescue, has_sinks)
    values, width = value * columns[..., :1], value.shape[-1]
    wide = max(query.shape[-1], width + kernels.WIDTHS - width % kernels.WIDTHS)
    if wide <= WIDEST:
        widened = torch.cat([values, columns], -1)
        mixed, _ = plain(*(_wide(each, wide) for each in (query, key, widened)), scaling)
        sums = mixed[..., width : width + columns.shape[-1]]
    else:  # no room for a column: its own pass
        mixed, _ = plain(query, key, values, scaling)
        sums = plain(query, key, _wide(columns, width), scaling)[0]
    if stop_gradient:
        sums = sums.detach()
    return mixed[..., :width] / kept_weight(sums, rescue, has_sinks)


def columns_of(keep: Tensor, dtype: torch.dtype, rescue: float, has_sinks: bool) -> Tensor:
    """Return the columns whose sums over the keys tell the kept weight.

    Args:
        keep: boolean ``[batch, heads, keys]``.
        dtype: of the values.
        rescue: weight of dropped keys, by which a query that loses all its keys gets them back.
        has_sinks: whether there are sinks.

    Returns:
        ``[batch, heads, keys, 1]``, or with a second column, the dropped keys', beside sinks.
    """
    kept = keep.to(dtype) + rescue
    return torch.stack([kept, (~keep).to(dtype)] if has_sinks else [kept], -1)


def kept_weight(sums: Tensor, rescue: float, has_sinks: bool) -> Tensor:
    """Return the weight of the kept keys and of the sinks, which divides what the kernel returned.

    Args:
        sums: of :func:`columns_of`'s columns, ``[batch, queries, heads, columns or more]``.
        rescue: as there.
        has_sinks: likewise.

    Returns:
        ``[batch, queries, heads, 1]``.
    """
    kept = sums[..., :1].clamp_min(rescue * 1e-3)
    if not has_sinks:
        return kept
    # The larger of two is the exact one: rounding can hide what a sink adds, or what is left of 1.
    rest = torch.maximum(1 - sums[..., 1:2], kept)
    return torch.where(kept > 2 * rescue, rest, torch.full_like(rest, rescue))


def _wide(states: Tensor, width: int) -> Tensor:
    return F.pad(states, (0, width - states.shape[-1]))
