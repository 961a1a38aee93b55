"""What happens inside one attention module while it trains with a configuration attached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hiddenkey.attention import fused, kernels, reference
from hiddenkey.attention.view import View, read_mask
from hiddenkey.config import Drop, DropoutConfig
from hiddenkey.measure import ShareCounter
from hiddenkey.positions.attention import KEY_PATTERNS, draw_entries, draw_keys


@dataclass
class AttentionSite:
    """The drops of one attention module.

    Attributes:
        logits: DropKey's drop, or ``None``.
        weights: DropAttention's drop, or ``None``.
        config: the whole configuration, for its switches.
        is_fused: use the fused path instead of the reference.
        counting: tells whether draws count now; they do not while a layer is recomputed.
        counters: one counter for each drop's position.
    """

    logits: Drop | None
    weights: Drop | None
    config: DropoutConfig
    is_fused: bool
    counting: Callable[[], bool]
    counters: dict[str, ShareCounter] = field(default_factory=dict)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *,
        is_causal: bool,
        mask_implies_causal: bool,
        scaling: float,
        dropout: float,
    ) -> Tensor:
        """Attention with this site's drops.

        Args:
            query: ``[batch, heads, queries, head_dim]``.
            key: ``[batch, key_heads, keys, head_dim]``; ``heads`` is a multiple of ``key_heads``.
            value: ``[batch, key_heads, keys, value_dim]``.
            mask: see :func:`hiddenkey.attention.view.read_mask`.
            is_causal: whether the module is a causal one.
            mask_implies_causal: with ``mask=None``, a causal module still means a causal mask.
            scaling: factor of the logits.
            dropout: rate of the model's own attention dropout.

        Returns:
            ``[batch, heads, queries, value_dim]``.
        """
        queries = query.shape[2]
        causal = is_causal and mask_implies_causal and mask is None and queries > 1
        if causal:
            key, value = key[:, :, :queries], value[:, :, :queries]
        view = read_mask(mask, causal=causal)
        protect_first = is_causal and self.config.keep_first
        if self.is_fused:
            return self._fused(query, key, value, view, protect_first, scaling)
        return self._reference(query, key, value, view, protect_first, scaling, dropout)

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        view: View,
        protect_first: bool,
        scaling: float,
    ) -> Tensor:
        drop = self.logits or self.weights
        assert drop is not None
        keep = self._draw_keys(drop, view, query, key, protect_first)
        groups = query.shape[1] // key.shape[1]
        if _key_mask_fits(drop, view, protect_first, query, value):
            if groups > 1 and not kernels.fit(query, key, value):
                key, value = _repeated(key, groups), _repeated(value, groups)
            return fused.key_mask(
                query, key, value, keep, mask=view.allowed, is_causal=view.causal, scaling=scaling
            )
        return fused.value_column(  # masks differ by query head, and so do its values
            query,
            _repeated(key, groups),
            _repeated(value, groups),
            keep,
            mask=view.sdpa_mask(),
            is_causal=view.causal,
            scaling=scaling,
            stop_gradient=drop.rescaling == "normalised",
        )

    def _reference(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        view: View,
        protect_first: bool,
        scaling: float,
        dropout: float,
    ) -> Tensor:
        allowed = view.dense(query.shape[2], key.shape[2], query.device)
        keeps: list[Tensor | None] = []
        for drop in (self.logits, self.weights):
            if drop is None:
                keeps.append(None)
            elif drop.pattern in KEY_PATTERNS:
                keep = self._draw_keys(drop, view, query, key, protect_first)
                keeps.append(keep.unsqueeze(-2))
            else:
                keeps.append(self._draw_entries(drop, allowed, query, protect_first))
        groups = query.shape[1] // key.shape[1]
        return reference.attention(
            query,
            _repeated(key, groups),
            _repeated(value, groups),
            allowed=allowed,
            scaling=scaling,
            bias=view.bias,
            logits_keep=keeps[0],
            weights_keep=keeps[1],
            rate=self.weights.rate if self.weights else 0.0,
            rescaling=self.weights.rescaling if self.weights else "none",
            dropout=dropout,
        )

    def _draw_keys(
        self, drop: Drop, view: View, query: Tensor, key: Tensor, protect_first: bool
    ) -> Tensor:
        keys = view.visible_keys(query.shape[0], key.shape[2], query.device)
        keep = draw_keys(
            drop.pattern,
            drop.rate,
            keys,
            query.shape[1],
            protect_first=protect_first,
            share_heads=self.config.share_heads,
        )
        if self.counting():
            self.counters[drop.position].add_all(keep, keys.count * keep.shape[1])
        return keep

    def _draw_entries(
        self, drop: Drop, allowed: Tensor, query: Tensor, protect_first: bool
    ) -> Tensor:
        keep = draw_entries(
            drop.rate,
            allowed.expand(query.shape[0], -1, -1, -1),
            query.shape[1],
            protect_first=protect_first,
            share_heads=self.config.share_heads,
        )
        if self.counting():
            self.counters[drop.position].add(keep, allowed)
        return keep


def fused_refusal(drops: list[Drop], keep_model_dropout: bool) -> str | None:
    """Say why the fused path cannot serve these attention drops, or ``None`` if it can."""
    if len(drops) > 1:
        return "it serves one attention position at a time"
    drop = drops[0]
    if drop.pattern not in KEY_PATTERNS:
        return f"pattern {drop.pattern!r} differs from query to query"
    if drop.position == "attention_weights" and not drop.rescaling.startswith("normalised"):
        return f"rescale {drop.rescaling!r} does not renormalise"
    if keep_model_dropout:
        return "keep_model_dropout=True leaves the model's own attention dropout on"
    return None


def _key_mask_fits(
    drop: Drop, view: View, protect_first: bool, query: Tensor, value: Tensor
) -> bool:
    """Whether the drop is DropKey by a mask over the keys, and no query can lose all of them."""
    if drop.rescaling == "normalised" and torch.is_grad_enabled():
        return False  # DropAttention differs from DropKey in its gradient alone
    if view.bias is not None or (view.allowed is not None and view.allowed.shape[-2] != 1):
        return False
    if not view.causal:
        return True
    return protect_first and kernels.fit(query, query, value)


def _repeated(states: Tensor, groups: int) -> Tensor:
    """Give every query head a key head of its own."""
    return states if groups == 1 else states.repeat_interleave(groups, 1)
