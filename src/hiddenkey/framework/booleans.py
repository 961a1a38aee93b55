"""Reductions of boolean masks."""

from __future__ import annotations

import torch
from torch import Tensor


def any_along(mask: Tensor, dim: int, *, keepdim: bool = False) -> Tensor:
    """``mask.any(dim)``, which takes PyTorch ten times as long on a CPU as a sum does."""
    return mask.sum(dim, keepdim=keepdim, dtype=torch.int32).ne(0)
