"""Modules that attend within blocks, each beside the same attention by all queries and keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BigBirdConfig,
    BigBirdPegasusConfig,
    LEDConfig,
    LongformerConfig,
    LongT5Config,
)
from transformers.models.big_bird.modeling_big_bird import (
    BigBirdBlockSparseAttention,
    BigBirdModel,
)
from transformers.models.bigbird_pegasus.modeling_bigbird_pegasus import (
    BigBirdPegasusBlockSparseAttention,
)
from transformers.models.led.modeling_led import LEDEncoderSelfAttention
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention
from transformers.models.longt5 import modeling_longt5
from transformers.models.pegasus_x.modeling_pegasus_x import PegasusXGlobalLocalAttention

BATCH, HEADS, WIDTH = 2, 3, 12
HEAD_WIDTH = WIDTH // HEADS
LOWEST = torch.finfo(torch.float32).min


def heads_of(states: Tensor) -> Tensor:
    return states.unflatten(-1, (HEADS, HEAD_WIDTH)).transpose(1, 2)


def joined(states: Tensor) -> Tensor:
    return states.transpose(1, 2).flatten(2)


def distances(tokens: int) -> Tensor:
    """Key minus query."""
    return torch.arange(tokens) - torch.arange(tokens)[:, None]


class Family:
    """A module that attends within blocks, and the same attention by all queries and keys.

    ``run`` and ``dense`` return ``[batch, queries, width]`` of the queries that are no padding.
    ``attend`` is ``reference.attention`` with the keys dropped; ``columns`` lays a mask over the
    keys, ``[batch, heads, keys]``, out for it.
    """

    lengths: tuple[int, ...]
    linears: tuple[str, ...]  # make keys and values of tokens
    token_axis = 1  # of what these return
    other_keys = 0  # how many come before the tokens
    module: Any

    def run(self, states: Tensor, visible: Tensor) -> Tensor:
        raise NotImplementedError

    def dense(self, states: Tensor, visible: Tensor, attend: Any) -> Tensor:
        raise NotImplementedError

    def keys_of(self, visible: Tensor) -> Tensor:
        """Which keys there are to drop, ``[batch, keys]``."""
        return visible

    @contextmanager
    def other_states(self, token: int, tokens: int) -> Iterator[None]:
        """Give a token, of so many, another key and another value."""

        def change(module: nn.Module, args: Any, states: Tensor) -> Tensor:
            if states.shape[self.token_axis] != tokens:  # not of the tokens
                return states
            changed = states.clone()
            changed.select(self.token_axis, token).add_(1.0)
            return changed

        linears = [getattr(self.module, name) for name in self.linears]
        handles = [linear.register_forward_hook(change) for linear in linears]
        yield
        for handle in handles:
            handle.remove()


class LongT5Local(Family):
    lengths = (3, 9, 12)
    linears = ("k", "v")
    kind = modeling_longt5.LongT5LocalAttention

    def __init__(self) -> None:
        config = LongT5Config(
            d_model=WIDTH,
            d_kv=HEAD_WIDTH,
            num_heads=HEADS,
            local_radius=3,
            global_block_size=3,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=6,
            dropout_rate=0.0,
        )
        self.module = self.kind(config, has_relative_attention_bias=True)

    def mask(self, visible: Tensor) -> Tensor:
        length = self.module.block_len
        return modeling_longt5._get_local_attention_mask(visible.long(), length, visible.device)

    def run(self, states, visible):
        return self.module(states, mask=self.mask(visible))[0] * visible.unsqueeze(-1)

    def bias(self, distance: Tensor, table: nn.Module) -> Tensor:
        buckets = self.module._relative_position_bucket(distance, num_buckets=8, max_distance=6)
        return table(buckets).movedim(-1, -3)

    def dense(self, states, visible, attend):
        near = distances(visible.shape[1])
        output = attend(
            *(heads_of(linear(states)) for linear in (self.module.q, self.module.k, self.module.v)),
            allowed=(near.abs() <= 3) & visible[:, None, None],
            bias=self.bias(near, self.module.relative_attention_bias),
            scaling=1.0,
        )
        return self.module.o(joined(output)) * visible.unsqueeze(-1)


class LongT5Global(LongT5Local):
    kind = modeling_longt5.LongT5TransientGlobalAttention

    def mask(self, visible):
        return visible.long()

    def dense(self, states, visible, attend):
        module, near = self.module, distances(visible.shape[1])
        block, segment = modeling_longt5._make_global_fixed_block_ids(visible.long(), 3)
        number = torch.arange(segment.shape[1])
        sums = torch.stack([((block == g)[..., None] * states).sum(1) for g in number], 1)
        both = torch.cat([states, module.global_input_layer_norm(sums)], 1)
        local = (near.abs() <= 3) & visible[:, None, None]
        shared = segment.bool()[:, None, None].expand(-1, -1, len(near), -1)
        side = self.bias(number - block[..., None].long(), module.global_relative_attention_bias)
        own = self.bias(near, module.relative_attention_bias).expand(BATCH, -1, -1, -1)
        output = attend(
            *(heads_of(m(x)) for m, x in ((module.q, states), (module.k, both), (module.v, both))),
            allowed=torch.cat([local, shared], -1),
            bias=torch.cat([own, side], -1),
            scaling=1.0,
            columns=lambda keep: F.pad(keep, (0, len(number)), value=True)[:, :, None],
        )
        return module.o(joined(output)) * visible.unsqueeze(-1)


class PegasusX(Family):
    lengths = (4, 12)
    linears = ("k_proj", "v_proj")
    other_keys = 2

    def __init__(self) -> None:
        self.module = PegasusXGlobalLocalAttention(WIDTH, HEADS, block_size=4)
        self.shared = torch.randn(BATCH, self.other_keys, WIDTH)

    def keys_of(self, visible):
        return F.pad(visible, (self.other_keys, 0), value=True)

    def run(self, states, visible):
        mask = torch.zeros(visible.shape).masked_fill(~visible, LOWEST)
        local, shared, _ = self.module(states, self.shared, attention_mask=mask)
        return torch.cat([shared, local], 1) * self.keys_of(visible).unsqueeze(-1)

    def dense(self, states, visible, attend):
        module, both = self.module, torch.cat([self.shared, states], 1)
        block = F.pad(torch.arange(visible.shape[1]) // 4, (self.other_keys, 0), value=-1)
        allowed = (block == block[:, None]) | (block == -1) | (block[:, None] == -1)
        output = attend(
            *(heads_of(linear(both)) for linear in (module.q_proj, module.k_proj, module.v_proj)),
            allowed=allowed & self.keys_of(visible)[:, None, None],
            scaling=HEAD_WIDTH**-0.5,
        )
        return module.out_proj(joined(output)) * self.keys_of(visible).unsqueeze(-1)


class PegasusXWithoutGlobals(PegasusX):
    """Its first softmax has no queries."""

    other_keys = 0


class Longformer(Family):
    """The second sample has more global tokens than the first, and one of them at its end."""

    lengths = (4, 12)
    linears = ("key", "value", "key_global", "value_global")
    token_axis = 0
    kind: Any = LongformerSelfAttention
    reach = 2

    def __init__(self) -> None:
        config = LongformerConfig(
            hidden_size=WIDTH,
            num_attention_heads=HEADS,
            attention_window=[2 * self.reach],
            attention_probs_dropout_prob=0.0,
        )
        self.module = self.kind(config, layer_id=0)

    def is_global(self, visible: Tensor) -> Tensor:
        chosen = torch.zeros_like(visible)
        chosen[:, 1] = chosen[1, -1] = chosen[1, -2] = True
        return chosen & visible

    def run(self, states, visible):
        is_global = self.is_global(visible)
        mask = torch.zeros(visible.shape)
        mask = mask.masked_fill(~visible, LOWEST).masked_fill(is_global, 1e4)
        output = self.module(
            states,
            attention_mask=mask,
            is_index_masked=~visible,
            is_index_global_attn=is_global,
            is_global_attn=bool(is_global.any()),
        )
        return output[0] * visible.unsqueeze(-1)

    def dense(self, states, visible, attend):
        module, is_global = self.module, self.is_global(visible)
        shown = visible[:, None, None]
        near = distances(visible.shape[1]).abs() <= self.reach
        local = (module.query, module.key, module.value)
        shared = (module.query_global, module.key_global, module.value_global)
        scaling = HEAD_WIDTH**-0.5
        output = attend(
            *(heads_of(linear(states)) for linear in local),
            allowed=(near | is_global[:, None, None]) & shown,
            scaling=scaling,
        )
        everywhere = attend(
            *(heads_of(linear(states)) for linear in shared),
            allowed=shown.expand(-1, -1, visible.shape[1], -1),
            scaling=scaling,
        )
        output = torch.where(is_global[:, None, :, None], everywhere, output)
        return joined(output) * visible.unsqueeze(-1)


class LongformerWithoutGlobals(Longformer):
    def is_global(self, visible):
        return torch.zeros_like(visible)


class LongformerOfOneWindow(LongformerWithoutGlobals):
    """All tokens but padding lie within each other's window: ordinary attention."""

    lengths = (4,)
    reach = 4

    def run(self, states, visible):
        return super().run(F.pad(states, (0, 0, 0, 4)), F.pad(visible, (0, 4)))[:, :4]

    def dense(self, states, visible, attend):
        module = self.module
        output = attend(
            *(heads_of(linear(states)) for linear in (module.query, module.key, module.value)),
            allowed=visible[:, None, None].expand(-1, -1, 4, -1),
            scaling=HEAD_WIDTH**-0.5,
            columns=lambda keep: keep[:, :, None, :4],
        )
        return joined(output) * visible.unsqueeze(-1)

    def keys_of(self, visible):
        return F.pad(visible, (0, 4))


class Led(Longformer):
    kind = LEDEncoderSelfAttention

    def __init__(self) -> None:
        config = LEDConfig(
            d_model=WIDTH,
            encoder_attention_heads=HEADS,
            attention_window=[2 * self.reach],
            attention_dropout=0.0,
        )
        self.module = self.kind(config, layer_id=0)


class BigBird(Family):
    """Which blocks it draws is read from the attention map that it returns without drops."""

    lengths = (20, 26)
    linears = ("key", "value")
    kind: Any = BigBirdBlockSparseAttention
    config: Any = BigBirdConfig

    def __init__(self) -> None:
        config = self.config(
            hidden_size=WIDTH,
            num_attention_heads=HEADS,
            encoder_attention_heads=HEADS,
            block_size=2,
            num_random_blocks=2,
            max_position_embeddings=32,
        )
        self.module = self.kind(config, seed=5)

    def call(self, states: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        mask = visible.float()
        masks = BigBirdModel.create_masks_for_block_sparse_attn(mask, 2)
        blocked, band, from_mask, to_mask = masks
        return self.module(states, band, from_mask, to_mask, blocked, blocked)

    def run(self, states, visible):
        return self.call(states, visible)[0] * visible.unsqueeze(-1)

    def dense(self, states, visible, attend):
        module = self.module
        seen = self.call(states, visible)[1]
        torch.testing.assert_close(seen.sum(-1), torch.ones(seen.shape[:-1]))
        output = attend(
            *(heads_of(linear(states)) for linear in (module.query, module.key, module.value)),
            allowed=seen > 0,
            scaling=HEAD_WIDTH**-0.5,
        )
        return joined(output) * visible.unsqueeze(-1)


class BigBirdPegasus(BigBird):
    kind = BigBirdPegasusBlockSparseAttention
    config = BigBirdPegasusConfig


FAMILIES = (
    LongT5Local,
    LongT5Global,
    PegasusX,
    PegasusXWithoutGlobals,
    Longformer,
    LongformerWithoutGlobals,
    LongformerOfOneWindow,
    Led,
    BigBird,
    BigBirdPegasus,
)
