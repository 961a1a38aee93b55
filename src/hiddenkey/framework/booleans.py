"""Reductions of boolean masks."""

from __future__ import annotations

import torch
from torch import Tensor


def any_along(mask: Tensor, dim: int, *, keepdim: bool = False) -> Tensor:
    """``mask.any(dim)``, by a sum, which is faster on a CPU.

    Args:
        mask: boolean, of any shape.
        dim: axis along which an entry is looked for.
        keepdim: keep that axis with length 1.
    """
    return mask.sum(dim, keepdim=keepdim, dtype=torch.int32).ne(0)


def none_along(mask: Tensor, dim: int, *, keepdim: bool = False) -> Tensor:
    """``~mask.any(dim)``, as :func:`any_along`."""
    return mask.sum(dim, keepdim=keepdim, dtype=torch.int32).eq(0)
