"""Column and span dropping inside PyTorch's fused attention, without an attention map of its own.

Two forms equal :func:`hiddenkey.attention.reference.attention` for masks that are constant over the
queries:

*value column*: run the ordinary kernel with V' = [keep · V, keep], one more value column, and
divide the first columns of the result by the last. With w = softmax(g) that is Σ_j keep_j w_j v_j /
Σ_j keep_j w_j: DropKey. With the divisor detached it is DropAttention with NoGrad: the two methods
differ by one ``detach``. The attention mask stays as it was, so causal kernels stay usable.

*key mask*: pass the keep mask as an attention mask ``[batch, heads, 1, keys]``, which the kernel
reads by strides. DropKey, and DropAttention where no gradient is asked for: forward they are equal.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hiddenkey.attention import kernels, reference

# Added to the keep column: far below the resolution of a kept key's 1, but where a query has lost
# every key, all its keys share it, and the division gives the query plain attention back (the
# decision that no query may lose every key) without a branch.
_RESCUE = 1e-28
# A query that sees no key at all has weight 0 everywhere, and its output is 0.
_LEAST_WEIGHT = _RESCUE * 1e-3


def value_column(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keep: Tensor,
    *,
    mask: Tensor | None,
    is_causal: bool,
    scaling: float,
    stop_gradient: bool,
) -> Tensor:
    """Attention over the kept keys by one more value column.

    Args:
        query: ``[batch, heads, queries, head_dim]``.
        key: ``[batch, heads, keys, head_dim]``.
        value: ``[batch, heads, keys, head_dim]``.
        keep: boolean ``[batch, heads, keys]``.
        mask: attention mask as ``scaled_dot_product_attention`` takes it; with ``is_causal`` a
            boolean one over the keys, ``[batch, 1, 1, keys]``.
        is_causal: let each query see only its own and earlier keys.
        scaling: factor of the logits.
        stop_gradient: True for DropAttention, False for DropKey.

    Returns:
        ``[batch, heads, queries, head_dim]``.
    """
    dtype = kernels.compute_dtype(value)
    if dtype == torch.float16:  # cannot hold _RESCUE
        with torch.autocast(value.device.type, enabled=False):
            wide = value_column(
                query.float(),
                key.float(),
                value.float(),
                keep,
                mask=mask.float() if mask is not None and mask.is_floating_point() else mask,
                is_causal=is_causal,
                scaling=scaling,
                stop_gradient=stop_gradient,
            )
        return wide.to(dtype)
    column = (keep.to(dtype) + _RESCUE).unsqueeze(-1)
    if mask is not None and is_causal and not kernels.fit(query, key, value):
        mask, is_causal = _with_order(mask, query.shape[2]), False
    narrow = stop_gradient and value.device.type == "cpu" and query.shape[-1] == value.shape[-1]
    if narrow and narrow_backward_works(dtype):
        mixed: Tensor = _DropAttention.apply(  # type: ignore[no-untyped-call]
            query.to(dtype),
            key.to(dtype),
            value.to(dtype),
            column,
            _as_bias(mask, dtype, query.shape[2]),
            is_causal,
            scaling,
        )
        return mixed
    width = value.shape[-1]
    pad = column_padding(width, query.device.type)
    values = F.pad(torch.cat([value * column, column], -1), (0, pad - 1))
    mixed = _attend(F.pad(query, (0, pad)), F.pad(key, (0, pad)), values, mask, is_causal, scaling)
    kept_weight = mixed[..., width : width + 1]
    if stop_gradient:
        kept_weight = kept_weight.detach()
    return mixed[..., :width] / kept_weight.clamp_min(_LEAST_WEIGHT)


def key_mask(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keep: Tensor,
    *,
    mask: Tensor | None,
    is_causal: bool,
    scaling: float,
) -> Tensor:
    """DropKey by an attention mask over the keys; every query must keep a key that it sees.

    Args:
        query: ``[batch, heads, queries, head_dim]``.
        key: ``[batch, key_heads, keys, head_dim]``; fewer heads than ``query`` has where
            :func:`hiddenkey.attention.kernels.serves` groups of them.
        value: ``[batch, key_heads, keys, value_dim]``.
        keep: boolean ``[batch, heads, keys]``.
        mask: boolean ``[batch, 1, 1, keys]`` or ``None``: which keys are visible.
        is_causal: let each query see only its own and earlier keys.
        scaling: factor of the logits.

    Returns:
        ``[batch, heads, queries, value_dim]``.
    """
    allowed = keep.unsqueeze(-2)
    if mask is not None:
        allowed = allowed & mask
    return _attend(query, key, value, allowed, is_causal, scaling)


class _DropAttention(torch.autograd.Function):
    """DropAttention by a value column whose backward pass needs no further column.

    Forward, O' = softmax(g) V' and s = softmax(g) · keep come from one call, and O = O'/s. With s
    held constant, ∂L/∂g_ij = w_ij/s_i (∂L/∂O_i · V'_j − ∂L/∂O_i · O'_i) and ∂L/∂V'_j = Σ_i w_ij/s_i
    ∂L/∂O_i: plain attention's backward pass with the output O' and the weights w/s, which are those
    of the logsumexp plus log s. It needs neither the column nor a rescaled ∂L/∂O.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        column: Tensor,
        bias: Tensor | None,
        is_causal: bool,
        scaling: float,
    ) -> Tensor:
        width = value.shape[-1]
        values = value.new_empty(*value.shape[:-1], width + 1)
        values[..., :width].copy_(value).mul_(column)
        values[..., width:] = column
        mixed, logsumexp = kernels.cpu_forward(
            F.pad(query, (0, 1)), F.pad(key, (0, 1)), values, bias, is_causal, scaling
        )
        kept_weight = mixed[..., width:]
        kept_weight = kept_weight.masked_fill(kept_weight < _LEAST_WEIGHT, 1.0)
        logsumexp = logsumexp + kept_weight.squeeze(-1).log().to(logsumexp.dtype)
        ctx.save_for_backward(query, key, values, mixed, logsumexp, column, bias)
        ctx.is_causal, ctx.scaling = is_causal, scaling
        return mixed[..., :width] / kept_weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, values, mixed, logsumexp, column, bias = ctx.saved_tensors
        width = query.shape[-1]
        to_query, to_key, to_value = kernels.cpu_backward(
            gradient,
            query,
            key,
            values[..., :width],
            mixed[..., :width],
            logsumexp,
            bias,
            ctx.is_causal,
            ctx.scaling,
        )
        return to_query, to_key, to_value.mul_(column), None, None, None, None


@kernels.constant_when_compiled
def narrow_backward_works(dtype: torch.dtype) -> bool:
    """Whether DropAttention's own backward pass agrees with the specification on a small case.

    It calls the CPU kernel's backward pass by a name that is not documented.
    """
    return _passes(dtype)


@functools.cache
def _passes(dtype: torch.dtype) -> bool:
    draws = torch.Generator().manual_seed(0)
    shape = (2, 2, 19, 16)
    inputs = [torch.randn(shape, generator=draws).to(dtype).requires_grad_() for _ in range(3)]
    keep = torch.rand(2, 2, 19, generator=draws) > 0.5
    keep[..., 0] = True
    allowed = torch.ones(19, 19, dtype=torch.bool).tril()
    with kernels.unseen("cpu"):
        try:
            column = (keep.to(dtype) + _RESCUE).unsqueeze(-1)
            fast = _DropAttention.apply(*inputs, column, None, True, 0.25)  # type: ignore[no-untyped-call]
            fast_gradients = torch.autograd.grad(fast.square().sum(), inputs)
        except (RuntimeError, AttributeError, NotImplementedError, TypeError):
            return False
        exact = reference.attention(
            *inputs, allowed=allowed, scaling=0.25, weights_keep=keep.unsqueeze(-2)
        )
        exact_gradients = torch.autograd.grad(exact.square().sum(), inputs)
    return kernels.agree((fast, *fast_gradients), (exact, *exact_gradients))


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    scaling: float,
) -> Tensor:
    """Fused attention that takes a mask over the keys and causality together."""
    if mask is not None and is_causal:
        if kernels.fit(query, key, value):
            return kernels.causal_with_keys(query, key, value, mask, scaling)
        mask, is_causal = _with_order(mask, query.shape[2]), False
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=is_causal,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )


def _with_order(allowed: Tensor, queries: int) -> Tensor:
    """Return a mask over the keys, ``[.., 1, keys]``, with causality, ``[.., queries, keys]``."""
    shape = (queries, allowed.shape[-1])
    return allowed & torch.ones(shape, dtype=torch.bool, device=allowed.device).tril()


def _as_bias(mask: Tensor | None, dtype: torch.dtype, queries: int) -> Tensor | None:
    if mask is None or mask.is_floating_point():
        return None if mask is None else mask.to(dtype)
    if mask.shape[-2] == 1:
        return kernels.key_bias(mask, dtype, queries)
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -torch.inf)


def column_padding(width: int, device: str) -> int:
    """Return how many columns make room for the one beside values of ``width``."""
    # CPU kernels want equal widths of query, key and value but no alignment; those for CUDA want
    # multiples, and others than these go to the one that computes an attention map
    return 1 if device == "cpu" else kernels.WIDTHS - width % kernels.WIDTHS
