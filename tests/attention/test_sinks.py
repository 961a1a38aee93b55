"""Attention sinks beside a drop in kernels without a map: learnt weight of a query, never dropped.

The equation is that of eager attention, whose softmax has one column more than there are keys.
"""

import math

import pytest
import torch
from torch.nn import functional as F
from transformers import AttentionInterface

import hiddenkey
from attention_kernels import KernelsWithSinks, batch, given_masks, model_of, passed, use_flash
from hiddenkey import AttachError
from hiddenkey.attention import flash, flex, reference
from hiddenkey.attention.dispatch import PREFIX
from hiddenkey.attention.site import AttentionSite
from models import assert_same_gradients

METHODS = ("dropkey", "dropattention")


def inputs(width, dtype=torch.float64):
    """Query, key, value and sinks; masks that leave each head its first key."""
    draws = torch.Generator().manual_seed(0)
    states = [torch.randn(2, 2, 6, width, generator=draws).to(dtype) for _ in range(3)]
    sinks = torch.tensor([0.5, 2.0], dtype=dtype)
    keep = torch.rand(2, 2, 6, generator=draws) > 0.4
    keep[..., 0] = True
    return [each.requires_grad_() for each in (*states, sinks)], keep


def equation(query, key, value, sinks, keep, method, causal=True):
    """softmax over the keys and the sink, then the values of the kept keys."""
    logits = query @ key.transpose(-1, -2) * 0.3
    if causal:
        logits = logits.masked_fill(torch.ones(6, 6).bool().triu(1), -math.inf)
    logits = torch.cat([logits, sinks[:, None, None].expand(2, -1, 6, 1)], -1)
    kept = F.pad(keep.unsqueeze(-2), (0, 1), value=True)
    if method == "dropkey":
        weights = reference.dropkey(logits, kept).softmax(-1)
    else:
        weights = reference.dropattention(logits.softmax(-1), kept, 0.4, "normalised")
    return weights[..., :-1] @ value


def flash_kernel(sinks):
    kernels = KernelsWithSinks()

    def plain(query, key, value, scaling):
        states = (each.transpose(1, 2) for each in (query, key, value))
        return kernels.fixed(*states, softmax_scale=scaling, causal=True, s_aux=sinks), None

    return flash.attend, plain


def flex_kernel(sinks):
    """As transformers computes it: the sink joins the sum of what FlexAttention returns."""

    def plain(query, key, value, scaling, position_bias=0.0):
        logits = query @ key.transpose(-1, -2) * scaling + position_bias
        logits = logits.masked_fill(torch.ones(6, 6).bool().triu(1), -math.inf)
        total = torch.logaddexp(logits.logsumexp(-1), sinks[:, None].expand(2, -1, 6))
        return ((logits - total.unsqueeze(-1)).exp() @ value).transpose(1, 2), None

    return flex.attend, plain


@pytest.mark.parametrize("kernel", [flash_kernel, flex_kernel])
@pytest.mark.parametrize("width", [8, 256])
@pytest.mark.parametrize("method", METHODS)
def test_values_and_gradients_are_the_equations(method, width, kernel):
    states, keep = inputs(width)
    attend, plain = kernel(states[-1])
    found = attend(
        plain,
        *states[:3],
        keep,
        scaling=0.3,
        stop_gradient=method == "dropattention",
        has_sinks=True,
    ).transpose(1, 2)
    exact = equation(*states, keep, method)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-12)
    gradients = (torch.autograd.grad(each.square().sum(), states) for each in (found, exact))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_sink_does_not_save_a_query_that_loses_all_its_keys(method):
    """It attends as without noise, where it would see the sink alone."""
    states, _ = inputs(8)
    attend, plain = flash_kernel(states[-1])
    none = torch.zeros(2, 2, 6, dtype=torch.bool)
    found = attend(
        plain, *states[:3], none, scaling=0.3, stop_gradient=method == "dropattention",
        has_sinks=True,
    )  # fmt: skip
    torch.testing.assert_close(found, plain(*states[:3], 0.3)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sink", [-30.0, 0.0, 6.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_near_the_exact_one(dtype, sink):
    """Whether the sink takes nothing or nearly all."""
    states, keep = inputs(8)
    states[-1] = torch.full((2,), sink, dtype=torch.float64)
    exact = equation(*states, keep, "dropkey")
    attend, plain = flash_kernel(states[-1])
    half = (each.to(dtype) for each in states[:3])
    found = attend(plain, *half, keep, scaling=0.3, stop_gradient=False, has_sinks=True)
    assert (found.transpose(1, 2).double() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("method", METHODS)
def test_a_model_with_sinks_computes_what_its_own_code_does(method, side, monkeypatch):
    kernels = use_flash(monkeypatch, with_sinks=True)
    given = batch(side)
    with monkeypatch.context() as patch:
        given_masks(patch, torch.tensor([1, 1, 0, 1, 0]).bool())
        found, gradient, _ = passed(model_of("gpt_oss", "flash"), given, method)
    assert kernels.calls
    model = model_of("gpt_oss", "eager")
    fixed = torch.tensor([1, 1, 0, 1, 0]).bool()

    counted = AttentionSite.draw

    def draw(self, drop, visible, keys, protect):
        counted(self, drop, visible, keys, protect)
        return fixed[: visible.shape[-1]].expand(visible.shape[0], visible.shape[1], 1, -1)

    monkeypatch.setattr(AttentionSite, "draw", draw)
    expected, exact, _ = passed(model, given, method)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert any("sinks" in name for name in exact)
    assert_same_gradients(gradient, exact, rtol=1e-3, atol=1e-3)


def test_a_paged_cache_is_refused():
    model = model_of("llama", "flex")
    hiddenkey.attach(model, hiddenkey.method("dropkey", rate=0.4))
    function = AttentionInterface._global_mapping[f"{PREFIX}flex_attention"]
    states = torch.zeros(1, 4, 3, 8)
    with pytest.raises(AttachError, match="trains with a paged cache"):
        function(model.model.layers[0].self_attn, states, states, states, None, cache=object())
