"""Column and span dropping inside PyTorch's fused attention, without an attention map of its own.

Two forms equal :func:`hiddenkey.attention.reference.attention` for masks that are constant over the
queries:

*value column*: run the ordinary kernel with V' = [keep · V, keep], one more value column, and
divide the first columns of the result by the last. With w = softmax(g) that is Σ_j keep_j w_j v_j /
Σ_j keep_j w_j: DropKey. With the divisor detached it is DropAttention with NoGrad: the two methods
differ by one ``detach``. The attention mask stays as it was, so causal kernels stay usable.

*key mask*: pass the keep mask as an attention mask ``[batch, heads, 1, keys]``, which the kernel
reads by strides. DropKey only.
"""

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from hiddenkey.attention import reference

# Added to the keep column: far below the resolution of a kept key's 1, but where a query has lost
# every key, all its keys share it, and the division gives the query plain attention back (the
# decision that no query may lose every key) without a branch.
_RESCUE = 1e-28


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
        mask: attention mask as ``scaled_dot_product_attention`` takes it.
        is_causal: likewise.
        scaling: factor of the logits.
        stop_gradient: True for DropAttention, False for DropKey.

    Returns:
        ``[batch, heads, queries, head_dim]``.
    """
    if value.dtype == torch.float16:  # cannot hold _RESCUE
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
        return wide.to(value.dtype)
    width = value.shape[-1]
    pad = _column_padding(query.device)
    column = (keep.to(value.dtype) + _RESCUE).unsqueeze(-1)
    values = F.pad(torch.cat([value * column, column], -1), (0, pad - 1))
    mixed = F.scaled_dot_product_attention(
        F.pad(query, (0, pad)),
        F.pad(key, (0, pad)),
        values,
        attn_mask=mask,
        is_causal=is_causal,
        scale=scaling,
    )
    kept_weight = mixed[..., width : width + 1]
    if stop_gradient:
        kept_weight = kept_weight.detach()
    # a query that sees no key at all has weight 0 everywhere, and its output is 0
    return mixed[..., :width] / kept_weight.clamp_min(_RESCUE * 1e-3)


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
        key: ``[batch, heads, keys, head_dim]``.
        value: ``[batch, heads, keys, value_dim]``.
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
    if not is_causal:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, scale=scaling)
    return _causal_key_mask(query, key, value, allowed, scaling)


def _causal_key_mask(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, scaling: float
) -> Tensor:
    # autocast does not reach this operator, and rotary embeddings leave query and key in float32
    dtype = compute_dtype(value)
    bias = torch.zeros(allowed.shape, dtype=dtype, device=query.device)
    bias = bias.masked_fill(~allowed, -math.inf).expand(-1, -1, query.shape[2], -1)
    mixed: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query.to(dtype), key.to(dtype), value.to(dtype), 0.0, True, attn_mask=bias, scale=scaling
    )[0]
    return mixed


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype attention computes in: autocast's where it is on, else the tensor's."""
    if torch.is_autocast_enabled(tensor.device.type):
        return torch.get_autocast_dtype(tensor.device.type)
    return tensor.dtype


@functools.cache
def causal_key_mask_works(dtype: torch.dtype) -> bool:
    """Whether the CPU kernel takes a key mask and causality together, which is not documented.

    Compared once per process with the reference, values and gradients, on a small case.
    """
    draws = torch.Generator().manual_seed(0)
    shape = (2, 2, 19, 16)
    inputs = [torch.randn(shape, generator=draws).to(dtype).requires_grad_() for _ in range(3)]
    keep = torch.rand(2, 2, 1, 19, generator=draws) > 0.5
    keep[..., 0] = True
    causal = torch.ones(19, 19, dtype=torch.bool).tril()
    query, key, value = inputs
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        try:
            fast = _causal_key_mask(query, key, value, keep, 0.25)
        except (RuntimeError, AttributeError, NotImplementedError):
            return False
        exact = reference.attention(
            query, key, value, allowed=causal, scaling=0.25, logits_keep=keep
        )
        fast_gradients = torch.autograd.grad(fast.square().sum(), inputs)
        exact_gradients = torch.autograd.grad(exact.square().sum(), inputs)
    tolerance = 16 * torch.finfo(dtype).eps
    return all(
        torch.allclose(a, b, rtol=tolerance, atol=tolerance)
        for a, b in zip((fast, *fast_gradients), (exact, *exact_gradients), strict=True)
    )


def _column_padding(device: torch.device) -> int:
    # CPU kernels want equal widths of query, key and value but no alignment; CUDA kernels want
    # multiples of 8
    return 1 if device.type == "cpu" else 8
