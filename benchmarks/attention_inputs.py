"""What attention.py computes attention of: shapes, tensors, masks, and the output they ask for."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hiddenkey.attention import reference
from hiddenkey.attention.masks import remembering

QUERY_HEADS_PER_KEY_HEAD = {"mha": 1, "gqa": 4}


@dataclass(frozen=True)
class Setting:
    """One shape: a row group of a table."""

    kind: str
    layout: str
    head_dim: int
    keys: int


class Inputs(NamedTuple):
    """What an attention module hands to its attention function, and the gradient it gets back.

    ``mask`` is transformers' (``None`` without padding); ``keep``, ``[batch, heads, keys]``, is the
    mask drawn beforehand.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    gradient: Tensor
    mask: Tensor | None
    keep: Tensor
    is_causal: bool
    rate: float

    @property
    def scaling(self) -> float:
        return self.query.shape[-1] ** -0.5

    @property
    def groups(self) -> int:
        return self.query.shape[1] // self.key.shape[1]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self if isinstance(part, Tensor))

    def seen_keys(self) -> Tensor | None:
        """Which keys are not padding, ``[batch, 1, 1, keys]``: the mask without causality."""
        return None if self.mask is None else self.mask.any(-2, keepdim=True)

    def allowed(self) -> Tensor:
        """Which keys a query may see, boolean ``[batch or 1, 1, queries, keys]``."""
        if self.mask is not None:
            return self.mask
        tokens = self.query.shape[2]
        everything = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device=self.query.device)
        return everything.tril() if self.is_causal else everything

    def repeated(self) -> tuple[Tensor, Tensor]:
        """Key and value for each query head."""
        if self.groups == 1:
            return self.key, self.value
        return tuple(t.repeat_interleave(self.groups, 1) for t in (self.key, self.value))

    def exact(self) -> Tensor:
        """The reference's output for the mask drawn beforehand."""
        return reference.attention(
            self.query,
            *self.repeated(),
            allowed=self.allowed(),
            scaling=self.scaling,
            logits_keep=self.keep.unsqueeze(-2),
        )


def make_inputs(setting: Setting, arguments: argparse.Namespace) -> Inputs:
    torch.manual_seed(0)
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    batch, heads, tokens = arguments.batch, arguments.heads, setting.keys
    key_heads = max(heads // QUERY_HEADS_PER_KEY_HEAD[setting.layout], 1)

    def projected(heads: int) -> Tensor:
        return torch.randn(batch, tokens, heads, setting.head_dim, device=device, dtype=dtype)

    query, key, value = (
        projected(count).transpose(1, 2).requires_grad_() for count in (heads, key_heads, key_heads)
    )
    keep = torch.rand(batch, heads, tokens, device=device) >= arguments.rate
    keep[..., 0] = True
    is_causal = setting.kind == "causal"
    mask = padding_mask(batch, tokens, is_causal, device) if arguments.padding else None
    return Inputs(query, key, value, projected(heads), mask, keep, is_causal, arguments.rate)


def padding_mask(batch: int, tokens: int, is_causal: bool, device: str) -> Tensor:
    """transformers' mask for SDPA, ``[batch, 1, queries, keys]``, as an attached model gets it."""
    from transformers.masking_utils import (
        bidirectional_mask_function,
        causal_mask_function,
        sdpa_mask,
    )

    seen = torch.ones(batch, tokens, dtype=torch.bool, device=device)
    seen[:, tokens - tokens // 4 :] = False
    return remembering(sdpa_mask)(
        batch_size=batch,
        q_length=tokens,
        kv_length=tokens,
        mask_function=causal_mask_function if is_causal else bidirectional_mask_function,
        attention_mask=seen,
        device=device,
    )
