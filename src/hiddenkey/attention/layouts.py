"""Attention within blocks and bands: which key stands in which column of a softmax.

Models for long texts compute few of the logits, and lay them out so that one key stands in another
column for each query or block of queries. A dropped key must be dropped wherever it stands;
columns that hold none, such as what fills up a block or a sum over many tokens, are kept.

A layout numbers the keys of one call of an attention module from 0. All softmaxes of the call have
the same keys, and each has a layout of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

NO_KEY = -1
"""What a layout says of a column that holds no key."""


@dataclass(frozen=True)
class Layout:
    """Which keys a softmax is over.

    Attributes:
        keys: integer, broadcasts to ``[batch, heads, *queries, columns]``: the key in each column,
            or ``NO_KEY``.
        heads_axis: axis of the heads in the logits, whose other axes stand in the order of
            ``keys``; 0 where batch and heads are one axis.
    """

    keys: Tensor
    heads_axis: int = 1


@dataclass(frozen=True)
class Call:
    """One call of an attention module.

    Attributes:
        module: the attention module.
        arguments: of its ``forward``, by name.
        gathered: numbers of the blocks that it gathered so far, ``[batch, heads, blocks]`` each.
    """

    module: Any
    arguments: Mapping[str, Any]
    gathered: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Layouts:
    """The layouts of one call.

    Attributes:
        keys: number of keys.
        heads: number of heads.
        each: one for each softmax, in the order in which they are called.
    """

    keys: int
    heads: int
    each: tuple[Layout, ...]


def layouts_of(module: nn.Module) -> Callable[[Call], Layouts] | None:
    """Return what gives the layouts of a module's calls; ``None`` for ordinary attention."""
    names = (kind.__name__ for kind in type(module).__mro__)
    return next((_LAYOUTS[name] for name in names if name in _LAYOUTS), None)


def neighbours(tokens: int, block: int, device: torch.device) -> Tensor:
    """Return the tokens of each block, of the one before it and of the one after.

    Returns:
        ``[blocks, 3 · block]``, where the last block may be incomplete.
    """
    starts = torch.arange(-block, tokens - block, block, device=device)
    return _within(starts[:, None] + torch.arange(3 * block, device=device), tokens)


def band(tokens: int, reach: int, device: torch.device) -> Tensor:
    """Return the tokens at most ``reach`` before or after each token.

    Returns:
        ``[tokens, 2 · reach + 1]``.
    """
    offsets = torch.arange(-reach, reach + 1, device=device)
    return _within(torch.arange(tokens, device=device)[:, None] + offsets, tokens)


def chosen(is_chosen: Tensor) -> Tensor:
    """Return the numbers of the chosen tokens of each sequence, in their order.

    Args:
        is_chosen: boolean ``[batch, tokens]``.

    Returns:
        ``[batch, most]``, as many columns as the most tokens that one sequence has chosen.
    """
    tokens = is_chosen.shape[-1]
    numbers = torch.arange(tokens, device=is_chosen.device).expand_as(is_chosen)
    most = int(is_chosen.sum(-1).max())
    return _within(numbers.masked_fill(~is_chosen, tokens).sort(-1).values[:, :most], tokens)


def of_blocks(blocks: Tensor, block: int) -> Tensor:
    """Return the tokens of blocks, ``[..., n · block]`` for ``[..., n]``."""
    return (blocks.unsqueeze(-1) * block + torch.arange(block, device=blocks.device)).flatten(-2)


def _within(numbers: Tensor, tokens: int) -> Tensor:
    return numbers.masked_fill((numbers < 0) | (numbers >= tokens), NO_KEY)


def _all(keys: int, device: torch.device) -> Tensor:
    return torch.arange(keys, device=device).view(1, 1, 1, keys)


def _longt5_local(call: Call) -> Layouts:
    states: Tensor = call.arguments["hidden_states"]
    keys = neighbours(states.shape[1], call.module.block_len, states.device)
    return _longt5(call, keys)


def _longt5_global(call: Call) -> Layouts:
    """Behind the neighbours stand sums over the tokens of each global block, which are no keys."""
    states: Tensor = call.arguments["hidden_states"]
    keys = neighbours(states.shape[1], call.module.block_len, states.device)
    sums = states.shape[1] // call.module.global_block_size
    return _longt5(call, nn.functional.pad(keys, (0, sums), value=NO_KEY))


def _longt5(call: Call, keys: Tensor) -> Layouts:
    """Logits ``[batch, blocks, heads, block, columns]``."""
    tokens = call.arguments["hidden_states"].shape[1]
    return Layouts(tokens, call.module.n_heads, (Layout(keys[None, None, :, None], heads_axis=2),))


def _pegasus_x(call: Call) -> Layouts:
    """The model's global tokens are keys like others, and come first.

    Logits ``[batch, heads, globals, globals + tokens]``, then
    ``[batch, heads, blocks, block, globals + block]``.
    """
    states: Tensor = call.arguments["token_hidden_states"]
    first, block = call.arguments["global_hidden_states"].shape[1], call.module.block_size
    blocks = states.shape[1] // block
    shared = torch.arange(first, device=states.device).expand(blocks, -1)
    own = first + torch.arange(blocks * block, device=states.device).view(blocks, block)
    keys = torch.cat([shared, own], -1)[None, None, :, None]
    count = first + blocks * block
    return Layouts(count, call.module.num_heads, (Layout(_all(count, states.device)), Layout(keys)))


def _longformer(call: Call) -> Layouts:
    """Tokens with global attention are keys of every query, and are hidden from the bands.

    Logits ``[batch, tokens, heads, globals + band]``, then ``[batch · heads, globals, tokens]``.
    """
    states: Tensor = call.arguments["hidden_states"]
    tokens, heads = states.shape[1], call.module.num_heads
    keys = band(tokens, call.module.one_sided_attn_window_size, states.device)[None, None]
    if not call.arguments.get("is_global_attn"):
        return Layouts(tokens, heads, (Layout(keys, heads_axis=2),))
    shared = chosen(call.arguments["is_index_global_attn"])[:, None, None]
    batch = shared.shape[0]
    keys = torch.cat([shared.expand(-1, -1, tokens, -1), keys.expand(batch, -1, -1, -1)], -1)
    every = Layout(_all(tokens, states.device), heads_axis=0)
    return Layouts(tokens, heads, (Layout(keys, heads_axis=2), every))


def _big_bird(call: Call) -> Layouts:
    """The outer blocks are keys of every query, and their queries see every key.

    Logits ``[batch, heads, block, columns]`` of the first block, of the second, of those in the
    middle (``[batch, heads, blocks, block, columns]``), of the last but one, and of the last. What
    a block within sees is the outer ones, its neighbours, and blocks drawn for each head.
    """
    states: Tensor = call.arguments["hidden_states"]
    tokens, block, device = states.shape[1], call.module.block_size, states.device
    last, heads = tokens // block - 1, call.module.num_attention_heads
    every = Layout(_all(tokens, device))
    if not call.gathered:
        return Layouts(tokens, heads, (every,))
    drawn = call.gathered[0]
    drawn = drawn.reshape(*drawn.shape[:2], last - 1, -1)  # row 0 is that of block 1
    middle = torch.arange(2, last - 1, device=device)[:, None]
    near = torch.cat([torch.zeros_like(middle), middle - 1, middle, middle + 1], -1)
    rows = (
        _with_drawn(near.new_tensor([0, 1, 2, last]), drawn[:, :, 0]),
        _with_drawn(near, drawn[:, :, 1:-1], near.new_tensor([last])),
        _with_drawn(near.new_tensor([0, last - 2, last - 1, last]), drawn[:, :, -1]),
    )
    within = (Layout(of_blocks(blocks, block).unsqueeze(-2)) for blocks in rows)
    return Layouts(tokens, heads, (every, *within, every))


def _with_drawn(before: Tensor, drawn: Tensor, *after: Tensor) -> Tensor:
    """Put blocks before and after those that are drawn, ``[batch, heads, ..., blocks]``."""
    return torch.cat(
        [blocks.expand(*drawn.shape[:-1], -1) for blocks in (before, drawn, *after)], -1
    )


_LAYOUTS: Mapping[str, Callable[[Call], Layouts]] = {
    "LongT5LocalAttention": _longt5_local,
    "LongT5TransientGlobalAttention": _longt5_global,
    "PegasusXGlobalLocalAttention": _pegasus_x,
    "LongformerSelfAttention": _longformer,
    "LEDEncoderSelfAttention": _longformer,
    "BigBirdBlockSparseAttention": _big_bird,
    "BigBirdPegasusBlockSparseAttention": _big_bird,
}
