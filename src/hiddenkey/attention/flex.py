"""Attention drops inside FlexAttention, whose block mask stays as transformers made it.

DropKey is one more term of the logits, ``log(keep)``, which the compiled kernel reads a key at a
time: transformers' function takes it as its position bias, after the soft cap. Neither a map nor
wider values are needed, and grouped keys stay grouped. A dropped key's term is log 1e-28, as the
value column's entry is 1e-28: too small beside a kept key, and plain attention where all are lost.

DropAttention differs in its gradient, which no term of the logits has. It multiplies the values
instead, and divides by the kept weight. That is a constant to the gradient, so a second pass
without one computes it, over values of the smallest width that the kernel takes. A column beside
the others would cost more: the kernel rounds the width of V up to a power of two.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from hiddenkey.attention import kernels
from hiddenkey.attention.flash import columns_of, kept_weight, rescue_of
from hiddenkey.attention.keys import VisibleKeys
from hiddenkey.attention.masks import keys_of, remember_keys
from hiddenkey.attention.view import read_mask
from hiddenkey.framework.booleans import any_along

NAME: Final = "flex_attention"

_NARROWEST = 16  # of a tile's side, for the matrix units
_RESCUE = math.log(1e-28)


@functools.cache
def refusal() -> str | None:
    """Say why this version of transformers cannot serve it, or ``None`` if it can."""
    try:
        from transformers.integrations.flex_attention import flex_attention_forward
    except ImportError:
        return "this version of transformers has no FlexAttention"
    if "position_bias" not in inspect.signature(flex_attention_forward).parameters:
        return "this version of transformers adds nothing to FlexAttention's logits"
    return None


def read_keys(key: Tensor, mask: Any, known: Mapping[str, Any]) -> VisibleKeys:
    """Return which keys are visible and where sequences begin.

    Args:
        key: ``[batch, key_heads, keys, head_dim]``.
        mask: a block mask; a float one ``[batch, 1, queries, keys]``; or ``None``.
        known: further arguments of the attention function; what is known is known of the mask.
    """
    batch, count = key.shape[0], key.shape[2]
    if (keys := keys_of(mask)) is not None and keys.visible.shape == (batch, count):
        return keys
    if isinstance(mask, Tensor):
        view = read_mask(mask[..., :count], causal=False)
        return view.visible_keys(batch, count, key.device)
    if mask is None or torch.compiler.is_compiling():  # hidden keys stay hidden, drawn or not
        return VisibleKeys(torch.ones(batch, count, dtype=torch.bool, device=key.device))
    keys = VisibleKeys(_entries(mask, count).expand(batch, count))
    remember_keys(mask, keys)
    return keys


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
        plain: takes query, key, value, the factor of the logits and, by name, ``position_bias``
            ``[batch, heads, queries, keys]``; returns ``[batch, queries, heads, width]`` first, as
            transformers' functions do.
        query: ``[batch, heads, queries, head_dim]``.
        key: ``[batch, key_heads, keys, head_dim]``.
        value: ``[batch, key_heads, keys, value_dim]``.
        keep: boolean ``[batch, heads, keys]``.
        scaling: factor of the logits.
        stop_gradient: True for DropAttention, False for DropKey.
        has_sinks: whether ``plain`` gives a part of each query's weight to sinks.

    Returns:
        ``[batch, queries, heads, value_dim]``.
    """
    if not (stop_gradient and torch.is_grad_enabled()):  # without gradients they are equal
        term = torch.zeros(keep.shape, dtype=query.dtype, device=keep.device)
        term = term.masked_fill(~keep, _RESCUE).unsqueeze(-2)
        bias = term.expand(-1, -1, query.shape[2], -1)
        return plain(query, key, value, scaling, position_bias=bias)[0]
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # masks differ by query head, and so do its values
        key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
    rescue = rescue_of(kernels.compute_dtype(value))
    columns = columns_of(keep, value.dtype, rescue, has_sinks)
    mixed, _ = plain(query, key, value * columns[..., :1], scaling)
    with torch.no_grad():
        narrow = F.pad(columns, (0, _NARROWEST - columns.shape[-1]))
        sums = plain(query, key, narrow, scaling)[0]
    return mixed / kept_weight(sums, rescue, has_sinks)


def _entries(mask: Any, keys: int) -> Tensor:
    """Return which keys some query of a block mask sees, ``[batch or 1, keys]``."""
    from torch.nn.attention.flex_attention import create_mask

    batch, heads, queries, _ = mask.shape
    device = mask.kv_num_blocks.device
    entries = create_mask(mask.mask_mod, batch, heads, queries, keys, device=device)
    return any_along(any_along(entries, -2), 1)
