"""PyTorch's fused kernels where its public function does not reach them.

``scaled_dot_product_attention`` refuses an attention mask together with ``is_causal``. Kernels
behind it take both: the flash kernel for CPUs and the memory-efficient one for CUDA. With both,
neither a mask over the keys nor causality needs a ``[queries, keys]`` tensor. That they do so is
not documented, so :func:`serves` holds them against the specification, once per process.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from hiddenkey.attention import reference

Test = TypeVar("Test", bound=Callable[..., bool])

WIDTHS = 8
"""Kernels for CUDA take heads whose width is a multiple of it."""

_ALIGNMENT = 16  # entries of a mask's row, for the memory-efficient kernel


def constant_when_compiled(test: Test) -> Test:
    """Let torch.compile call a self-test and take its result for a constant.

    ``torch.compiler.assume_constant_result`` does no more, but imports the compiler: a second.
    """
    test._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return test


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype attention computes in: autocast's where it is on, else the tensor's."""
    if torch.is_autocast_enabled(tensor.device.type):
        return torch.get_autocast_dtype(tensor.device.type)
    return tensor.dtype


def key_bias(allowed: Tensor, dtype: torch.dtype, queries: int) -> Tensor:
    """Return 0 for allowed keys and −∞ for others, the same memory for every query.

    Args:
        allowed: boolean ``[batch, heads or 1, 1, keys]``.
        dtype: of the attention.
        queries: how many.

    Returns:
        ``[batch, heads or 1, queries, keys]`` with stride 0 over the queries.
    """
    keys = allowed.shape[-1]
    bias = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    bias = bias.masked_fill(~allowed, -math.inf)
    if allowed.device.type != "cpu":
        bias = F.pad(bias, (0, -keys % _ALIGNMENT))[..., :keys]
    return bias.expand(-1, -1, queries, -1)


def causal_with_keys(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, scaling: float
) -> Tensor:
    """Causal attention to allowed keys only; where :func:`serves` says so.

    Args:
        query: ``[batch, heads, queries, head_dim]``.
        key: ``[batch, key_heads, keys, head_dim]``.
        value: ``[batch, key_heads, keys, head_dim]``.
        allowed: boolean ``[batch, heads or 1, 1, keys]``.
        scaling: factor of the logits.

    Returns:
        ``[batch, heads, queries, head_dim]``; zeros for a query that sees no key.
    """
    # autocast does not reach these operators, and rotary embeddings leave query and key in float32
    dtype = compute_dtype(value)
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    bias = key_bias(allowed, dtype, query.shape[2])
    if query.device.type == "cpu":
        return cpu_forward(query, key, value, bias, True, scaling)[0]
    bias = bias.expand(-1, query.shape[1], -1, -1)
    mixed: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, torch.is_grad_enabled(), 0.0, True, scale=scaling
    )[0]
    return mixed


def fit(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether :func:`causal_with_keys` takes these: one width, and a kernel that passed."""
    if query.shape[-1] != value.shape[-1] or not takes_width(value.shape[-1], value.device.type):
        return False
    grouped = key.shape[1] != query.shape[1]
    return serves(compute_dtype(value), value.device.type, grouped=grouped)


def takes_width(width: int, device: str) -> bool:
    """Whether heads of this width are aligned for the kernels of a type of device.

    PyTorch's public function asks that before it calls the memory-efficient kernel, which fails on
    others.
    """
    return device == "cpu" or width % WIDTHS == 0


def cpu_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    is_causal: bool,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Run the CPU's flash kernel.

    Args:
        query: ``[batch, heads, queries, head_dim]``.
        key: ``[batch, heads, keys, head_dim]``.
        value: ``[batch, heads, keys, head_dim]``.
        bias: added to the logits, in their dtype; broadcasts to ``[batch, heads, queries, keys]``.
        is_causal: let each query see only its own and earlier keys.
        scaling: factor of the logits.

    Returns:
        Output ``[batch, heads, queries, head_dim]``, and the logarithm of each query's sum of
        exponentials, which :func:`cpu_backward` needs.
    """
    mixed, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, attn_mask=bias, scale=scaling
    )
    return mixed, logsumexp


def cpu_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mixed: Tensor,
    logsumexp: Tensor,
    bias: Tensor | None,
    is_causal: bool,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients to query, key and value of :func:`cpu_forward`."""
    gradients: tuple[Tensor, Tensor, Tensor] = (
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient,
            query,
            key,
            value,
            mixed,
            logsumexp,
            0.0,
            is_causal,
            attn_mask=bias,
            scale=scaling,
        )
    )
    return gradients


@constant_when_compiled
def serves(dtype: torch.dtype, device: str, *, grouped: bool = False) -> bool:
    """Whether a kernel takes causality and a mask over the keys together, and gets it right.

    Compared with the specification, values and gradients, on a small case in which a sequence
    begins with padding, so that its first queries see no key at all.

    Args:
        dtype: of query, key and value.
        device: type of the device, ``cpu`` or ``cuda``.
        grouped: with two query heads for each key head.
    """
    return device in ("cpu", "cuda") and _passes(dtype, device, grouped)


@functools.cache
def _passes(dtype: torch.dtype, device: str, grouped: bool) -> bool:
    draws = torch.Generator().manual_seed(0)
    groups = 2 if grouped else 1
    inputs = [
        torch.randn(2, heads, 19, 16, generator=draws).to(device, dtype).requires_grad_()
        for heads in (2 * groups, 2, 2)
    ]
    keep = torch.rand(2, 2 * groups, 1, 19, generator=draws) > 0.5
    keep[0, ..., 0] = True
    keep[1, ..., :4] = False
    keep = keep.to(device)
    causal = torch.ones(19, 19, dtype=torch.bool, device=device).tril()
    query, key, value = inputs
    with unseen(device):
        try:
            fast = causal_with_keys(query, key, value, keep, 0.25)
            fast_gradients = torch.autograd.grad(fast.square().sum(), inputs)
        except (RuntimeError, AttributeError, NotImplementedError, TypeError):
            return False
        exact = reference.attention(
            query,
            key.repeat_interleave(groups, 1),
            value.repeat_interleave(groups, 1),
            allowed=causal & keep,
            scaling=0.25,
        )
        exact_gradients = torch.autograd.grad(exact.square().sum(), inputs)
    return agree((fast, *fast_gradients), (exact, *exact_gradients))


@contextmanager
def unseen(device: str) -> Iterator[None]:
    """Let a self-test in the middle of a model's forward pass neither feel nor disturb it.

    Activation checkpointing counts the tensors that are saved, unless other hooks take them.
    """
    saved = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
    with torch.enable_grad(), torch.autocast(device, enabled=False), saved:
        yield


@torch.no_grad()
def agree(found: Sequence[Tensor], exact: Sequence[Tensor]) -> bool:
    """Whether results of a fast path are those of the specification, up to rounding."""
    tolerance = 16 * torch.finfo(found[0].dtype).eps
    return all(
        torch.allclose(a, b, rtol=tolerance, atol=tolerance * b.abs().max().clamp_min(1).item())
        for a, b in zip(found, exact, strict=True)
    )
