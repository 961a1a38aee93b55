"""Which keys a query may see, read from the mask formats that transformers passes around."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hiddenkey.attention.keys import VisibleKeys
from hiddenkey.attention.masks import keys_of, structure_of
from hiddenkey.framework.booleans import any_along

HIDDEN_BELOW = -5e3
"""A logit below this is that of a hidden key: models add −10,000 or the smallest number to it."""


@dataclass(frozen=True)
class View:
    """What each query may see.

    Attributes:
        allowed: boolean, broadcasts to ``[batch, heads, queries, keys]``; its query axis has size 1
            where all queries see the same keys. ``None``: no restriction.
        bias: float, added to the logits, 0 where ``allowed`` is False; ``None``: nothing to add.
        causal: each query also sees only its own and earlier keys, counted from the first.
        known_keys: what is known of the keys, if anything is.
    """

    allowed: Tensor | None
    bias: Tensor | None
    causal: bool
    known_keys: VisibleKeys | None = None

    def dense(self, queries: int, keys: int, device: torch.device) -> Tensor:
        """Return ``allowed`` with causality, boolean ``[batch|1, heads|1, queries, keys]``."""
        allowed = torch.ones((1, 1, queries, keys), dtype=torch.bool, device=device)
        if self.causal:
            allowed = allowed.tril()
        return allowed if self.allowed is None else allowed & self.allowed

    def visible_keys(self, batch: int, keys: int, device: torch.device) -> VisibleKeys:
        """Return which keys any query may see, ``[batch, keys]``."""
        if self.known_keys is not None:
            return self.known_keys
        if self.allowed is None:
            return VisibleKeys(torch.ones((batch, keys), dtype=torch.bool, device=device))
        return VisibleKeys(any_along(any_along(self.allowed, -2), 1).expand(batch, keys))

    def sdpa_mask(self) -> Tensor | None:
        """Return the mask that ``scaled_dot_product_attention`` takes for it, causality aside."""
        if self.bias is None or self.allowed is None:
            return self.allowed
        return self.bias.masked_fill(~self.allowed, -math.inf)


def read_mask(mask: Tensor | None, *, causal: bool) -> View:
    """Read the mask that reaches an attention function.

    Args:
        mask: boolean (True = visible) or float (added to the logits, the smallest float = hidden),
            ``[batch or 1, heads or 1, queries, keys]``; or ``None``. Code of one's own also hides
            by −10⁹ or −10⁴.
        causal: with ``mask=None``, whether a query sees only its own and earlier keys.
    """
    if mask is None:
        return View(None, None, causal)
    if structure := structure_of(mask):
        known = structure.keys
        allowed = None if known is None else known.visible[:, None, None, :]
        return View(allowed, None, structure.causal, known)
    packed = keys if (keys := keys_of(mask)) is not None and keys.starts is not None else None
    if mask.stride(-2) == 0:  # the same for all queries, and never laid out for each
        mask = mask[..., :1, :]
    if mask.dtype == torch.bool:
        return View(mask, None, False, packed)
    allowed = mask > HIDDEN_BELOW
    return View(allowed, mask.masked_fill(~allowed, 0.0), False, packed)


def is_ordered(allowed: Tensor) -> Tensor:
    """Whether queries differ in the keys they see, as in causal attention; a boolean scalar.

    Args:
        allowed: boolean ``[batch, heads, queries, keys]``; queries that see nothing do not count.
    """
    seen = allowed.sum(-1, dtype=torch.int32)  # a query that sees fewer than all see differs
    by_all = any_along(allowed, -2).sum(-1, keepdim=True, dtype=torch.int32)
    return (seen.ne(0) & seen.ne(by_all)).any()
