"""What happens inside one attention module while it trains with a configuration attached."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hiddenkey.anatomy.attention import Kind
from hiddenkey.attention import fused, kernels, reference
from hiddenkey.attention.keys import KEY_PATTERNS, VisibleKeys, draw_entries, draw_keys
from hiddenkey.attention.same_map import SameMap
from hiddenkey.attention.view import View, is_ordered, read_mask
from hiddenkey.framework.booleans import any_along
from hiddenkey.framework.config import Drop, DropoutConfig
from hiddenkey.framework.positions import POSITIONS
from hiddenkey.measure import ShareCounter


@dataclass
class AttentionSite:
    """The drops of one attention module.

    Attributes:
        logits: DropKey's drop, or ``None``.
        weights: DropAttention's drop, or ``None``.
        config: the whole configuration, for its switches.
        is_fused: use the fused path instead of the reference.
        counting: whether draws count now; not while activation checkpointing runs a layer again.
        counters: one counter for each drop's position.
        kind: what the keys are, ``self`` or ``cross``.
        is_intercepted: the module's own code runs, and what it calls is changed.
        gives_map: whether who calls the model asked for the attention maps.
        is_inside_kernel: another library's kernel is at work, and asks for its own name.
        same_map: the draws of the call at work; ``None``: each map that is asked for has its own.
        is_silent: nothing is dropped, so that the module may compute as without a site.
    """

    logits: Drop | None
    weights: Drop | None
    config: DropoutConfig
    is_fused: bool
    counting: Callable[[], bool]
    counters: dict[str, ShareCounter] = field(default_factory=dict)
    kind: Kind = "self"
    is_intercepted: bool = False
    gives_map: bool = False
    is_inside_kernel: bool = False
    same_map: SameMap | None = None
    labelled: Callable[[], Tensor | None] | None = None
    is_silent: bool = field(init=False)

    def set_rate(self, position: str, rate: float) -> None:
        """Change the rate of the drop at ``position`` from now on."""
        if self.logits is not None and self.logits.position == position:
            self.logits = dataclasses.replace(self.logits, rate=rate)
        elif self.weights is not None and self.weights.position == position:
            self.weights = dataclasses.replace(self.weights, rate=rate)
        self._note_silence()

    def __post_init__(self) -> None:
        self._note_silence()

    def _note_silence(self) -> None:
        # kept, since compiled code that looked at the rate would be compiled anew for each
        self.is_silent = not any(drop and drop.rate for drop in (self.logits, self.weights))

    def see_map(self, query: Tensor, key: Tensor) -> None:
        """Note from which queries and keys, as the module holds them, a map is computed next."""
        if self.same_map is not None:
            self.same_map.see(query, key)

    @property
    def protects_first(self) -> bool:
        """Whether a sequence's first visible key stays where the order counts."""
        return self.config.keep_first and self.kind == "self"

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *,
        is_causal: bool | None,
        mask_implies_causal: bool,
        scaling: float,
        dropout: float,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        """Attention with this site's drops.

        Args:
            query: ``[batch, heads, queries, head_dim]``.
            key: ``[batch, key_heads, keys, head_dim]``; ``heads`` is a multiple of ``key_heads``.
            value: ``[batch, key_heads, keys, value_dim]``.
            mask: see :func:`hiddenkey.attention.view.read_mask`.
            is_causal: whether the module is a causal one; ``None`` where the mask says.
            mask_implies_causal: with ``mask=None``, a causal module still means a causal mask.
            scaling: factor of the logits.
            dropout: rate of the model's own attention dropout.
            maps: takes the weights that were used, ``[batch, heads, queries, keys]``; the reference
                path then computes them.

        Returns:
            ``[batch, heads, queries, value_dim]``.
        """
        queries = query.shape[2]
        causal = bool(is_causal) and mask_implies_causal and mask is None and queries > 1
        if causal:
            key, value = key[:, :, :queries], value[:, :, :queries]
        view = read_mask(mask, causal=causal)
        protect_first: bool | Tensor = self.protects_first and bool(is_causal)
        if is_causal is None and self.protects_first and view.allowed is not None:
            protect_first = is_ordered(view.allowed)
        if self.is_fused and maps is None:
            return self._fused(query, key, value, view, protect_first, scaling)
        weights = self._weights(query, key, view, protect_first, scaling, dropout, value.dtype)
        if maps is not None:
            maps.append(weights)
        return torch.matmul(weights, _repeated(value, query.shape[1] // value.shape[1]))

    @contextmanager
    def inside_kernel(self) -> Iterator[None]:
        """Let the module's config give its own name of the attention implementation."""
        self.is_inside_kernel = True
        try:
            yield
        finally:
            self.is_inside_kernel = False

    def attend_in_kernel(
        self,
        attend: Callable[..., Tensor],
        plain: Callable[..., tuple[Tensor, object]],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        keys: VisibleKeys,
        *,
        is_causal: bool,
        scaling: float,
        has_sinks: bool = False,
    ) -> Tensor:
        """Attention with this site's drop in a kernel that computes no map.

        Args:
            attend: :func:`hiddenkey.attention.flash.attend` or that of ``flex``.
            plain: what ``attend`` calls.
            query: ``[batch, heads, queries, head_dim]``.
            key: ``[batch, key_heads, keys, head_dim]``.
            value: ``[batch, key_heads, keys, value_dim]``.
            keys: what is known of the keys.
            is_causal: whether the module is a causal one.
            scaling: factor of the logits.
            has_sinks: whether a part of each query's weight goes to learnt sinks.

        Returns:
            ``[batch, queries, heads, value_dim]``.
        """
        drop = self.logits or self.weights
        assert drop is not None
        keep = self._draw_keys(drop, keys, query.shape[1], self.protects_first and is_causal)
        return attend(
            plain,
            query,
            key,
            value,
            keep,
            scaling=scaling,
            stop_gradient=drop.rescaling == "normalised",
            has_sinks=has_sinks,
        )

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        view: View,
        protect_first: bool | Tensor,
        scaling: float,
    ) -> Tensor:
        drop = self.logits or self.weights
        assert drop is not None
        visible = view.visible_keys(query.shape[0], key.shape[2], query.device)
        keep = self._draw_keys(drop, visible, query.shape[1], protect_first)
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

    def _weights(
        self,
        query: Tensor,
        key: Tensor,
        view: View,
        protect_first: bool | Tensor,
        scaling: float,
        dropout: float,
        dtype: torch.dtype,
    ) -> Tensor:
        allowed = view.dense(query.shape[2], key.shape[2], query.device)
        visible = view.visible_keys(query.shape[0], key.shape[2], query.device)
        shown = allowed.expand(query.shape[0], query.shape[1], -1, -1)
        keeps = [
            None if drop is None else self.draw(drop, shown, visible, protect_first)
            for drop in (self.logits, self.weights)
        ]
        return reference.weights(
            query,
            _repeated(key, query.shape[1] // key.shape[1]),
            allowed=allowed,
            scaling=scaling,
            bias=view.bias,
            logits_keep=keeps[0],
            weights_keep=keeps[1],
            rate=self.weights.rate if self.weights else 0.0,
            rescaling=self.weights.rescaling if self.weights else "none",
            dropout=dropout,
            dtype=dtype,
        )

    def draw(
        self, drop: Drop, allowed: Tensor, keys: VisibleKeys, protect_first: bool | Tensor
    ) -> Tensor:
        """Draw a keep mask for attention that is computed as a map, and count what is dropped.

        Args:
            drop: one of this site's.
            allowed: boolean ``[batch, heads, queries, keys]``, which keys a query may see.
            keys: which keys any query may see.
            protect_first: see :func:`hiddenkey.attention.keys.draw_keys`.

        Returns:
            Keep mask that broadcasts to ``allowed``, before the rescue of empty queries.
        """
        if drop.pattern in KEY_PATTERNS:
            return self._draw_keys(drop, keys, allowed.shape[1], protect_first).unsqueeze(-2)
        return self._once(drop, lambda: self._draw_entries(drop, allowed, keys, protect_first))

    def _once(self, drop: Drop, draw: Callable[[], Tensor]) -> Tensor:
        return draw() if self.same_map is None else self.same_map.once(drop.position, draw)

    def _draw_entries(
        self, drop: Drop, allowed: Tensor, keys: VisibleKeys, protect_first: bool | Tensor
    ) -> Tensor:
        seen = allowed[:, :1] if allowed.stride(1) == 0 else any_along(allowed, 1, keepdim=True)
        narrowed = self._narrowed(keys)
        if narrowed is not keys:
            keys, seen = narrowed, seen & narrowed.visible[:, None, None, :]
        keep = draw_entries(
            drop.pattern,
            drop.rate,
            seen,
            allowed.shape[1],
            protect_first=protect_first,
            share_heads=self.config.share_heads,
            first=keys.first,
        )
        if self.counting():
            self.counters[drop.position].add(keep, seen)
        return keep

    def _draw_keys(
        self, drop: Drop, keys: VisibleKeys, heads: int, protect_first: bool | Tensor
    ) -> Tensor:
        return self._once(drop, lambda: self._new_keys(drop, keys, heads, protect_first))

    def _new_keys(
        self, drop: Drop, keys: VisibleKeys, heads: int, protect_first: bool | Tensor
    ) -> Tensor:
        keys = self._narrowed(keys)
        keep = draw_keys(
            drop.pattern,
            drop.rate,
            keys,
            heads,
            protect_first=protect_first,
            share_heads=self.config.share_heads,
        )
        if self.counting():
            self.counters[drop.position].add_all(keep, keys.count * keep.shape[1])
        return keep

    def _narrowed(self, keys: VisibleKeys) -> VisibleKeys:
        """Leave out what a decoder's labels alone show to be padding."""
        own = None if self.labelled is None else self.labelled()
        if own is None or own.shape != keys.visible.shape:
            return keys
        return VisibleKeys(keys.visible & own.to(keys.visible.device), keys.starts)


def fused_refusal(drops: list[Drop], keep_model_dropout: bool) -> str | None:
    """Say why the fused path cannot serve these attention drops, or ``None`` if it can."""
    if not drops:
        return None
    if len(drops) > 1:
        return "it serves one attention position at a time"
    drop = drops[0]
    if drop.pattern not in KEY_PATTERNS:
        return f"pattern {drop.pattern!r} differs from query to query"
    acts_on_weights = POSITIONS[drop.position].attention == "weights"
    if acts_on_weights and not drop.rescaling.startswith("normalised"):
        return f"rescale {drop.rescaling!r} does not renormalise"
    if keep_model_dropout:
        return "keep_model_dropout=True leaves the model's own attention dropout on"
    return None


def _key_mask_fits(
    drop: Drop, view: View, protect_first: bool | Tensor, query: Tensor, value: Tensor
) -> bool:
    """Whether the drop is DropKey by a mask over the keys, and no query can lose all of them."""
    if drop.rescaling == "normalised" and torch.is_grad_enabled():
        return False  # DropAttention differs from DropKey in its gradient alone
    if view.bias is not None or (view.allowed is not None and view.allowed.shape[-2] != 1):
        return False
    if not view.causal:
        return True
    return protect_first is True and kernels.fit(query, query, value)


def _repeated(states: Tensor, groups: int) -> Tensor:
    """Give every query head a key head of its own."""
    return states if groups == 1 else states.repeat_interleave(groups, 1)
