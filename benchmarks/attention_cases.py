"""The ways to compute attention that attention.py compares, each of them a :class:`Case`.

- What users get: ``dropkey``, ``dropkey-span``, ``dropattention`` (``AttentionSite.attend``, fused,
  with the drawing of masks and the counters), ``dropkey-element``, ``dropattention-element`` and
  ``dropkey-reference`` (the same on the reference path, the last one by column).
- The two fused forms of DropKey, for a mask drawn beforehand: ``key-mask``, ``value-column``.
- The alternatives: ``masked`` (SDPA with a boolean mask ``[batch, heads, queries, keys]``),
  ``sdpa-dropout`` and ``eager-dropout`` (dropout of attention weights, entry by entry).
- On a GPU also ``flex`` (FlexAttention, compiled, with a static block mask and a ``score_mod`` that
  reads the drawn mask), ``value-column-flash`` and ``key-mask-efficient`` (one kernel allowed).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention_inputs import Inputs
from hiddenkey import Drop, DropoutConfig
from hiddenkey.attention import fused, kernels
from hiddenkey.attention.site import AttentionSite
from hiddenkey.measure import ShareCounter

BASELINE = "sdpa"

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    """One way to compute attention.

    Attributes:
        prepare: makes the call that is measured; what it does itself is not.
        pair_bytes: what a call holds at its peak for each query, key and head on a CPU in float32,
            as measured; 0 for kernels that never hold an attention map.
        is_checked: it uses ``Inputs.keep``, so that its output must be the reference's.
        is_gpu_only: it exists on a GPU only.
    """

    prepare: Callable[[Inputs], Call]
    pair_bytes: float = 0.0
    is_checked: bool = False
    is_gpu_only: bool = False


def sdpa(x: Inputs, dropout: float = 0.0) -> Tensor:
    """Plain SDPA; like transformers, it repeats keys and values only where there is a mask."""
    enable_gqa = x.groups > 1 and x.mask is None
    key, value = (x.key, x.value) if enable_gqa else x.repeated()
    return F.scaled_dot_product_attention(
        x.query,
        key,
        value,
        attn_mask=x.mask,
        dropout_p=dropout,
        is_causal=x.is_causal and x.mask is None,  # a mask holds causality itself
        scale=x.scaling,
        enable_gqa=enable_gqa,
    )


def site(position: str, pattern: str, *, is_fused: bool) -> Callable[[Inputs], Call]:
    """What an attached model runs."""

    def prepare(x: Inputs) -> Call:
        drop = Drop(f"attention_{position}", pattern, x.rate)
        made = AttentionSite(
            logits=drop if position == "logits" else None,
            weights=drop if position == "weights" else None,
            config=DropoutConfig((drop,)),
            is_fused=is_fused,
            counting=lambda: True,
            counters={drop.position: ShareCounter()},
        )
        return lambda: made.attend(
            x.query,
            x.key,
            x.value,
            x.mask,
            is_causal=x.is_causal,
            mask_implies_causal=True,
            scaling=x.scaling,
            dropout=0.0,
        )

    return prepare


def value_column(x: Inputs) -> Tensor:
    return fused.value_column(
        x.query,
        *x.repeated(),
        x.keep,
        mask=x.seen_keys(),
        is_causal=x.is_causal,
        scaling=x.scaling,
        stop_gradient=False,
    )


def key_mask(x: Inputs) -> Tensor:
    """As the library calls it: it repeats keys only where the kernel takes no groups of them."""
    takes_groups = kernels.serves(x.value.dtype, x.value.device.type, grouped=True)
    return fused.key_mask(
        x.query,
        *((x.key, x.value) if takes_groups else x.repeated()),
        x.keep,
        mask=x.seen_keys(),
        is_causal=x.is_causal,
        scaling=x.scaling,
    )


def masked(x: Inputs) -> Tensor:
    mask = x.keep.unsqueeze(-2) & x.allowed()
    return F.scaled_dot_product_attention(x.query, *x.repeated(), attn_mask=mask, scale=x.scaling)


def eager_dropout(x: Inputs) -> Call:
    """transformers' eager attention with dropout; its additive mask is made once per model call."""
    smallest = torch.finfo(x.query.dtype).min
    mask = torch.zeros_like(x.allowed(), dtype=x.query.dtype)
    mask = mask.masked_fill(~x.allowed(), smallest) if x.is_causal or x.mask is not None else None

    def call() -> Tensor:
        key, value = x.repeated()
        logits = torch.matmul(x.query, key.transpose(2, 3)) * x.scaling
        if mask is not None:
            logits = logits + mask
        weights = F.softmax(logits, dim=-1, dtype=torch.float32).to(x.query.dtype)
        return torch.matmul(F.dropout(weights, x.rate), value)

    return call


def restricted(attend: Callable[[Inputs], Tensor], backend: SDPBackend) -> Callable[[Inputs], Call]:
    """A case for which SDPA may use one kernel only."""

    def call(x: Inputs) -> Tensor:
        with sdpa_kernel(backend):
            return attend(x)

    return lambda x: functools.partial(call, x)


@functools.cache
def compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    def attend(query, key, value, keep, block_mask, scaling, enable_gqa):
        def drop(score, batch, head, query_index, key_index):
            return torch.where(keep[batch, head, key_index], score, -math.inf)

        return flex_attention(
            query,
            key,
            value,
            score_mod=drop,
            block_mask=block_mask,
            scale=scaling,
            enable_gqa=enable_gqa,
        )

    torch._dynamo.config.recompile_limit = 1000  # each shape is compiled; beyond it: uncompiled
    return torch.compile(attend, dynamic=False, fullgraph=True)


def flex(x: Inputs) -> Call:
    """FlexAttention; the block mask holds what does not change from call to call."""
    from torch.nn.attention.flex_attention import create_block_mask

    tokens, is_causal, is_padded = x.query.shape[2], x.is_causal, x.mask is not None
    seen = x.allowed().any(-2)[:, 0]

    def visible(sequence, head, query_index, key_index):
        in_order = query_index >= key_index
        if not is_padded:
            return in_order
        return seen[sequence, key_index] & in_order if is_causal else seen[sequence, key_index]

    block_mask = None
    if x.is_causal or is_padded:
        sequences = len(seen) if is_padded else None
        block_mask = create_block_mask(visible, sequences, None, tokens, tokens, x.query.device)
    return lambda: compiled_flex()(
        x.query, x.key, x.value, x.keep, block_mask, x.scaling, x.groups > 1
    )


def direct(attend: Callable[..., Tensor], **changes: Any) -> Callable[[Inputs], Call]:
    """A case with nothing to prepare."""
    return lambda x: functools.partial(attend, x, **changes)


CASES: Mapping[str, Case] = {
    BASELINE: Case(direct(sdpa)),
    "dropkey": Case(site("logits", "column", is_fused=True)),
    "dropkey-span": Case(site("logits", "span", is_fused=True)),
    "dropattention": Case(site("weights", "column", is_fused=True)),
    "key-mask": Case(direct(key_mask), is_checked=True),
    "value-column": Case(direct(value_column), is_checked=True),
    "flex": Case(flex, is_checked=True, is_gpu_only=True),
    "value-column-flash": Case(
        restricted(value_column, SDPBackend.FLASH_ATTENTION), is_checked=True, is_gpu_only=True
    ),
    "key-mask-efficient": Case(
        restricted(key_mask, SDPBackend.EFFICIENT_ATTENTION), is_checked=True, is_gpu_only=True
    ),
    "masked": Case(direct(masked), 4.3, is_checked=True),
    "dropkey-reference": Case(site("logits", "column", is_fused=False), 15.7),
    "dropkey-element": Case(site("logits", "element", is_fused=False), 18.1),
    "dropattention-element": Case(site("weights", "element", is_fused=False), 24.1),
    "sdpa-dropout": Case(lambda x: functools.partial(sdpa, x, x.rate), 16.7),
    "eager-dropout": Case(eager_dropout, 16.7),
}
MAIN = ["dropkey", "dropattention", "key-mask", "value-column", "masked", "dropkey-reference"]


def pass_of(case: Case, x: Inputs) -> Callable[[], None]:
    """One forward and backward pass, as far as the attention module's own reshaping."""
    call = case.prepare(x)

    def both() -> None:
        output = call().transpose(1, 2).contiguous()
        torch.autograd.grad(output, (x.query, x.key, x.value), x.gradient)

    return both


def check(case: Case, x: Inputs) -> None:
    """Compare the output for the mask drawn beforehand with the reference."""
    with torch.no_grad():
        error = (case.prepare(x)() - x.exact()).abs().max().item()
    if not error < torch.finfo(x.query.dtype).eps ** 0.5:
        raise ArithmeticError(f"differs from the reference by {error:.1e}")
