"""Every attention path against the equations in float64, in shapes that kernels are picky about."""

import pytest
import torch

from attention_kernels import batch, model_of, passed, use_flex
from hiddenkey.attention import flash, fused, kernels, reference
from models import assert_same_gradients

TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 0.04, torch.float16: 0.02}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
METHODS = pytest.mark.parametrize("method", ["dropkey", "dropattention"])
# heads of odd widths, of more than 128, and those at which FlashAttention has no room left
WIDTHS = (64, 20, 23, 136, 256)


@pytest.mark.parametrize("grouped", [False, True], ids=["mha", "gqa"])
@DTYPES
def test_a_kernel_that_serves_is_right_and_others_are_told(dtype, grouped, device):
    served = kernels._passes.__wrapped__(dtype, device, grouped)
    if not grouped:
        assert served
    if device == "cpu" and dtype != torch.float16:
        assert fused.narrow_backward_works(dtype)


def states(device, dtype, width, queries=33):
    draws = torch.Generator().manual_seed(0)
    made = [torch.randn(2, 2, queries, width, generator=draws) for _ in range(4)]
    keep = torch.rand(2, 2, queries, generator=draws) > 0.3
    keep[..., 0] = True
    *inputs, direction = (each.to(device, dtype) for each in made)
    return [each.requires_grad_() for each in inputs], direction, keep.to(device)


def exact(inputs, direction, keep, method, allowed):
    wide = [each.detach().double().requires_grad_() for each in inputs]
    masks = {"logits_keep" if method == "dropkey" else "weights_keep": keep.unsqueeze(-2)}
    how = {} if method == "dropkey" else {"rescaling": "normalised"}
    output = reference.attention(*wide, allowed=allowed, scaling=0.1, **masks, **how)
    return [output, *torch.autograd.grad((output * direction.double()).sum(), wide)]


def assert_near(output, inputs, direction, expected, tolerance):
    found = [output, *torch.autograd.grad((output * direction).sum(), inputs)]
    for one, other in zip(found, expected, strict=True):
        error = (one.double() - other).abs().max()
        assert error <= tolerance * other.abs().max()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("mask", ["none", "causal", "padded", "causal, padded", "window"])
@METHODS
@DTYPES
def test_pytorchs_kernels(dtype, method, mask, width, device):
    inputs, direction, keep = states(device, dtype, width)
    order = torch.ones(33, 33, dtype=torch.bool, device=device).tril()
    visible = torch.ones(2, 1, 1, 33, dtype=torch.bool, device=device)
    if "padded" in mask:
        visible[1, ..., 25:] = False
    is_causal = mask.startswith("causal")
    allowed = visible & order if is_causal else visible
    given = visible if "padded" in mask else None
    if mask == "window":
        allowed = given = (order & ~order.tril(-8)).expand(2, 1, -1, -1)
    expected = exact(inputs, direction, keep, method, allowed)
    output = fused.value_column(
        *inputs, keep, mask=given, is_causal=is_causal, scaling=0.1,
        stop_gradient=method == "dropattention",
    )  # fmt: skip
    assert_near(output, inputs, direction, expected, TOLERANCES[dtype])
    if method == "dropkey" and mask != "window":
        output = fused.key_mask(*inputs, keep, mask=given, is_causal=is_causal, scaling=0.1)
        assert_near(output, inputs, direction, expected, TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("width", [64, 136, 256])
@METHODS
def test_flash_attention(method, width, dtype, device):
    """Of the real package; its interface without it: tests/attention/test_flash.py."""
    package = pytest.importorskip("flash_attn")
    if device == "cpu":
        pytest.skip("flash_attn needs a GPU")
    inputs, direction, keep = states(device, dtype, width)
    order = torch.ones(33, 33, dtype=torch.bool, device=device).tril()

    def plain(query, key, value, scaling):
        arguments = (each.transpose(1, 2) for each in (query, key, value))
        return package.flash_attn_func(*arguments, softmax_scale=scaling, causal=True), None

    output = flash.attend(
        plain, *inputs, keep, scaling=0.1, stop_gradient=method == "dropattention"
    ).transpose(1, 2)
    expected = exact(inputs, direction, keep, method, order)
    assert_near(output, inputs, direction, expected, TOLERANCES[dtype])


@pytest.mark.parametrize("kind", ["bert", "llama", "mistral"])
@METHODS
def test_flex_attention(method, kind, device, monkeypatch):
    """Compiled where there is a GPU, with heads of 16 as it wants them; else its eager form."""
    if device == "cpu":
        use_flex(monkeypatch)
    inputs = {name: each.to(device) for name, each in batch("right").items()}
    sizes = {"hidden_size": 64, "num_attention_heads": 4}
    sizes |= {} if kind == "bert" else {"head_dim": 16}
    logits, expected, _ = passed(model_of(kind, "sdpa", **sizes).to(device), inputs, method)
    found, gradient, _ = passed(model_of(kind, "flex", **sizes).to(device), inputs, method)
    torch.testing.assert_close(found, logits, rtol=1e-3, atol=1e-3)
    assert_same_gradients(gradient, expected, rtol=1e-2, atol=1e-2)
