"""The two fused forms by themselves, and the self-test that guards one of them."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from hiddenkey.attention import fused, kernels, reference

BATCH, HEADS, LENGTH, WIDTH = 2, 3, 11, 8
SCALING = 0.4


def inputs(dtype=torch.float32):
    shape = (BATCH, HEADS, LENGTH, WIDTH)
    return [torch.randn(shape).to(dtype).requires_grad_() for _ in range(3)]


def outcome(attention, tensors):
    """Return the output and its gradients to query, key and value, all in float64."""
    output = attention(*tensors)
    direction = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
    gradients = torch.autograd.grad((output.double() * direction).sum(), tensors)
    return [tensor.detach().double() for tensor in (output, *gradients)]


def widened(tensors):
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


def check(fast, slow, tensors, tolerance):
    found, exact = outcome(fast, tensors), outcome(slow, widened(tensors))
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())


# of the largest entry; bfloat16 has 8 bits, and the division doubles its error
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.04, torch.float16: 0.01}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
CAUSAL = pytest.mark.parametrize("is_causal", [False, True], ids=["encoder", "causal"])


def drawn(protect_first=True):
    keep = torch.rand(BATCH, HEADS, LENGTH) > 0.4
    if protect_first:
        keep[..., 0] = True
    else:
        keep[..., :3] = False  # the first causal queries lose every key
        keep[..., 5] = True
    return keep


def seen(is_causal, visible=None):
    allowed = torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    allowed = allowed.tril() if is_causal else allowed
    return allowed if visible is None else allowed & visible


@DTYPES
@CAUSAL
@pytest.mark.parametrize("stop_gradient", [False, True], ids=["dropkey", "dropattention"])
@pytest.mark.parametrize("protect_first", [True, False])
def test_value_column_equals_the_specification(dtype, is_causal, stop_gradient, protect_first):
    keep = drawn(protect_first)
    kind = "weights_keep" if stop_gradient else "logits_keep"

    def fast(query, key, value):
        return fused.value_column(
            query,
            key,
            value,
            keep,
            mask=None,
            is_causal=is_causal,
            scaling=SCALING,
            stop_gradient=stop_gradient,
        )

    def slow(query, key, value):
        return reference.attention(
            query,
            key,
            value,
            allowed=seen(is_causal),
            scaling=SCALING,
            **{kind: keep.unsqueeze(-2)},
        )

    check(fast, slow, inputs(dtype), TOLERANCES[dtype])


@pytest.mark.parametrize("stop_gradient", [False, True], ids=["dropkey", "dropattention"])
@pytest.mark.parametrize("form", ["boolean", "float"])
def test_value_column_with_an_attention_mask(form, stop_gradient):
    keep = drawn()
    visible = torch.rand(BATCH, 1, LENGTH, LENGTH) > 0.3
    visible[..., 0] = True
    bias = torch.randn(BATCH, 1, LENGTH, LENGTH)
    mask = visible if form == "boolean" else bias.masked_fill(~visible, -torch.inf)
    kind = "weights_keep" if stop_gradient else "logits_keep"

    def fast(query, key, value):
        return fused.value_column(
            query,
            key,
            value,
            keep,
            mask=mask,
            is_causal=False,
            scaling=SCALING,
            stop_gradient=stop_gradient,
        )

    def slow(query, key, value):
        return reference.attention(
            query,
            key,
            value,
            allowed=visible,
            bias=bias if form == "float" else None,
            scaling=SCALING,
            **{kind: keep.unsqueeze(-2)},
        )

    check(fast, slow, inputs(), TOLERANCES[torch.float32])


@DTYPES
@CAUSAL
@pytest.mark.parametrize("padded", [False, True])
def test_key_mask_equals_the_specification(dtype, is_causal, padded):
    keep = drawn()
    visible = torch.ones(BATCH, 1, 1, LENGTH, dtype=torch.bool)
    visible[1, ..., 6:] = not padded

    def fast(query, key, value):
        mask = visible if padded else None
        return fused.key_mask(
            query, key, value, keep, mask=mask, is_causal=is_causal, scaling=SCALING
        )

    def slow(query, key, value):
        return reference.attention(
            query,
            key,
            value,
            allowed=seen(is_causal, visible),
            scaling=SCALING,
            logits_keep=keep.unsqueeze(-2),
        )

    check(fast, slow, inputs(dtype), TOLERANCES[dtype])


@CAUSAL
def test_keeping_every_key_is_plain_attention(is_causal):
    keep = torch.ones(BATCH, HEADS, LENGTH, dtype=torch.bool)

    def plain(query, key, value):
        return F.scaled_dot_product_attention(query, key, value, is_causal=is_causal, scale=SCALING)

    def column(query, key, value):
        return fused.value_column(
            query,
            key,
            value,
            keep,
            mask=None,
            is_causal=is_causal,
            scaling=SCALING,
            stop_gradient=False,
        )

    def masked(query, key, value):
        return fused.key_mask(
            query, key, value, keep, mask=None, is_causal=is_causal, scaling=SCALING
        )

    for fast in (column, masked):
        check(fast, plain, inputs(), TOLERANCES[torch.float32])


@DTYPES
@pytest.mark.parametrize("stop_gradient", [False, True], ids=["dropkey", "dropattention"])
def test_a_query_that_sees_no_key_gives_zero_and_finite_gradients(dtype, stop_gradient):
    tensors = inputs(dtype)
    visible = torch.ones(BATCH, 1, LENGTH, LENGTH, dtype=torch.bool)
    visible[:, :, 4] = False
    output = fused.value_column(
        *tensors,
        drawn(),
        mask=visible,
        is_causal=False,
        scaling=SCALING,
        stop_gradient=stop_gradient,
    )
    assert output[:, :, 4].eq(0).all()
    for gradient in torch.autograd.grad(output.float().square().sum(), tensors):
        assert gradient.isfinite().all()
    blind = torch.autograd.grad(
        fused.value_column(
            *tensors,
            drawn(),
            mask=visible,
            is_causal=False,
            scaling=SCALING,
            stop_gradient=stop_gradient,
        )[:, :, 4].sum(),
        tensors,
    )
    assert all(gradient.eq(0).all() for gradient in blind)


@pytest.mark.parametrize("gap", [20.0, 40.0])
def test_value_column_is_exact_where_the_dropped_key_has_almost_all_weight(gap):
    """The kept keys share a weight of about exp(−gap)."""
    query = torch.zeros(1, 1, 1, WIDTH)
    query[..., 0] = 1.0
    key = torch.randn(1, 1, LENGTH, WIDTH)
    key[..., 0] = torch.linspace(0, 1, LENGTH)
    key[..., 3, 0] = gap
    keep = torch.ones(1, 1, LENGTH, dtype=torch.bool)
    keep[..., 3] = False
    tensors = [t.requires_grad_() for t in (query, key, torch.randn(1, 1, LENGTH, WIDTH))]

    def fast(query, key, value):
        return fused.value_column(
            query,
            key,
            value,
            keep,
            mask=None,
            is_causal=False,
            scaling=1.0,
            stop_gradient=False,
        )

    def slow(query, key, value):
        allowed = torch.ones(1, 1, 1, LENGTH, dtype=torch.bool)
        return reference.attention(
            query, key, value, allowed=allowed, scaling=1.0, logits_keep=keep.unsqueeze(-2)
        )

    check(fast, slow, tensors, 1e-4)


KERNEL = "_scaled_dot_product_flash_attention_for_cpu"


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_takes_a_key_mask_and_causality_together(dtype, grouped):
    assert kernels._passes.__wrapped__(dtype, "cpu", grouped)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropattention_has_a_backward_pass_of_its_own(dtype):
    assert fused._passes.__wrapped__(dtype)


def broken(fault):
    kernel = getattr(torch.ops.aten, KERNEL)

    def call(query, key, value, dropout, is_causal, *, attn_mask, scale):
        if fault == "ignores the mask":
            attn_mask = None
        if fault == "ignores causality":
            is_causal = False
        if fault == "refuses":
            raise RuntimeError("attention mask and is_causal cannot be set together")
        output, *rest = kernel(
            query, key, value, dropout, is_causal, attn_mask=attn_mask, scale=scale
        )
        if fault == "has no gradient to the query":
            output = (
                output
                - (
                    kernel(
                        query,
                        key.detach(),
                        value.detach(),
                        dropout,
                        is_causal,
                        attn_mask=attn_mask,
                        scale=scale,
                    )[0]
                )
                + output.detach()
            )
        return output, *rest

    return call


@pytest.mark.parametrize(
    "fault",
    ["ignores the mask", "ignores causality", "refuses", "has no gradient to the query"],
)
def test_the_self_test_notices_a_kernel_that(monkeypatch, fault):
    monkeypatch.setattr(torch.ops.aten, KERNEL, broken(fault))
    assert not kernels._passes.__wrapped__(torch.float32, "cpu", False)


def test_the_self_test_notices_a_missing_kernel(monkeypatch):
    class NoOps:
        aten = object()

    monkeypatch.setattr(torch, "ops", NoOps)
    assert not kernels._passes.__wrapped__(torch.float32, "cpu", False)


def test_the_self_test_passes_a_kernel_that_is_only_wrapped(monkeypatch):
    monkeypatch.setattr(torch.ops.aten, KERNEL, broken("none"))
    assert kernels._passes.__wrapped__(torch.float32, "cpu", False)


def test_the_self_test_draws_nothing_from_the_global_generator():
    state = torch.get_rng_state()
    kernels._passes.__wrapped__(torch.float32, "cpu", False)
    assert torch.get_rng_state().equal(state)


def test_the_self_test_works_under_no_grad():
    with torch.no_grad():
        assert kernels._passes.__wrapped__(torch.float32, "cpu", False)


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_self_test_does_not_depend_on_autocast(dtype, autocast):
    with torch.autocast("cpu", dtype=autocast):
        assert kernels._passes.__wrapped__(dtype, "cpu", False)


@pytest.mark.parametrize(("width", "padding"), [(64, 8), (128, 8), (20, 4), (23, 1), (31, 1)])
def test_a_column_on_cuda_leaves_a_multiple_of_eight(width, padding):
    assert fused.column_padding(width, "cuda") == padding
    assert fused.column_padding(width, "cpu") == 1


def test_on_cuda_the_memory_efficient_kernel_gets_aligned_heads_alone(monkeypatch):
    """It fails on others, which the public function would have handed to another kernel."""
    monkeypatch.setattr(kernels, "serves", lambda dtype, device, *, grouped: True)

    def states(device, width):
        made = torch.empty(1, 2, 3, width, device="meta")
        return SimpleNamespace(shape=made.shape, dtype=made.dtype, device=torch.device(device))

    for device, width, expected in (("cuda", 20, False), ("cuda", 24, True), ("cpu", 20, True)):
        heads = states(device, width)
        assert kernels.fit(heads, heads, heads) is expected
