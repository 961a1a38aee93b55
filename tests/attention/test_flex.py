"""Drops inside FlexAttention: its eager form, by transformers' own function and block masks."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

import hiddenkey
from attention_kernels import batch, given_masks, model_of, passed, use_flex, with_kernel
from hiddenkey import AttachError
from hiddenkey.attention import dispatch, masks, reference
from hiddenkey.attention import flex as module
from hiddenkey.attention.site import AttentionSite
from hiddenkey.framework.positions import POSITIONS
from models import assert_same_gradients, plain_model

METHODS = ("dropkey", "dropkey-span", "dropattention")


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    return use_flex(monkeypatch)


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["bert", "llama", "mistral"])
def test_values_and_gradients_are_those_of_pytorchs_kernel(kind, method, side, calls):
    """An encoder, grouped keys, and a sliding window; draws and what is counted are alike too."""
    if (kind, side) == ("bert", "left"):
        pytest.skip("its classifier reads the first token, which is padding here")
    inputs = batch(side)
    logits, expected, shares = passed(model_of(kind, "sdpa").double(), inputs, method)
    found, gradient, own_shares = passed(model_of(kind, "flex").double(), inputs, method)
    assert calls
    torch.testing.assert_close(found, logits, rtol=1e-8, atol=1e-9)
    assert_same_gradients(gradient, expected, rtol=1e-7, atol=1e-8)
    assert own_shares == pytest.approx(shares)


@pytest.mark.parametrize("method", ["dropkey", "dropattention"])
def test_a_soft_cap_stays(method):
    """As eager attention computes it, whose softmax is intercepted."""
    inputs = batch("right")
    logits, expected, _ = passed(model_of("gemma2", "eager"), inputs, method)
    found, gradient, _ = passed(model_of("gemma2", "flex"), inputs, method)
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)
    assert_same_gradients(gradient, expected, rtol=1e-3, atol=2e-4)


def test_dropkey_takes_one_pass_and_dropattention_a_narrow_second_one(calls):
    model = model_of("llama", "flex")  # two key heads for four query heads, of width 8
    inputs = batch("none")
    for method, shapes in (("dropkey", [(2, 8)]), ("dropattention", [(4, 8), (4, 16)])):
        calls.clear()
        passed(model, inputs, method)
        values = [(value[1], value[3]) for _, _, value in calls]
        assert values == shapes * 2  # layers
    calls.clear()
    attachment = hiddenkey.attach(model, hiddenkey.method("dropattention", rate=0.4))
    with torch.no_grad():  # as in a second forward pass: equal to DropKey, and one pass
        model(**inputs)
    attachment.detach()
    assert len(calls) == 2


@pytest.mark.parametrize("method", ["dropkey", "dropattention"])
def test_a_position_bias_is_added_beside_the_drop(method):
    """Through the function that stands in for transformers', against the equation."""
    config = hiddenkey.method(method, rate=0.4)
    drops = {POSITIONS[drop.position].attention: drop for drop in config.drops}
    site = AttentionSite(
        drops.get("logits"), drops.get("weights"), config, is_fused=True, counting=lambda: False
    )
    attention = model_of("llama", "flex").model.layers[0].self_attn
    dispatch.route(attention, site)
    draws = torch.Generator().manual_seed(0)
    sizes = ((4, 8), (2, 8), (2, 8))
    query, key, value = (
        torch.randn(2, heads, 6, width, generator=draws, dtype=torch.float64).requires_grad_()
        for heads, width in sizes
    )
    bias = torch.randn(2, 4, 6, 6, generator=draws, dtype=torch.float64)
    keep = torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    with pytest.MonkeyPatch.context() as patch:
        given_masks(patch, keep)
        function = dispatch._kernel_function("flex_attention")
        found, _ = function(attention, query, key, value, None, scaling=0.3, position_bias=bias)
    found = found.transpose(1, 2)
    gradient = torch.autograd.grad(found.square().sum(), (query, key, value))
    masks = {"logits_keep" if method == "dropkey" else "weights_keep": keep}
    rest = {} if method == "dropkey" else {"rescaling": "normalised"}
    keys, values = (each.repeat_interleave(2, 1) for each in (key, value))
    exact = reference.attention(
        query,
        keys,
        values,
        allowed=torch.ones(6, 6).bool(),
        scaling=0.3,
        bias=bias,
        **masks,
        **rest,
    )
    expected = torch.autograd.grad(exact.square().sum(), (query, key, value))
    for one, other in zip((found, *gradient), (exact, *expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_query_whose_keys_all_fall_attends_as_without_noise(monkeypatch):
    """In a window the first key may be out of sight; then nothing that is seen may be lost."""
    for method in ("dropkey", "dropattention"):
        model = model_of("mistral", "flex")
        inputs = {"input_ids": torch.tensor([[5, 6, 7, 8, 9, 10]])}
        plain = model.eval()(**inputs).logits
        model.train()
        hiddenkey.attach(model, hiddenkey.method(method, rate=0.4))
        with monkeypatch.context() as patch:
            given_masks(patch, torch.zeros(6, dtype=torch.bool))
            torch.testing.assert_close(model(**inputs).logits, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["dropkey", "dropattention"])
def test_in_half_precision_it_is_near_the_exact_one(method, dtype):
    inputs = batch("right")
    exact, _, _ = passed(model_of("llama", "flex"), inputs, method)
    found, gradient, _ = passed(model_of("llama", "flex").to(dtype), inputs, method)
    assert (found.float() - exact).norm() < 0.03 * exact.norm()
    assert all(torch.isfinite(each).all() for each in gradient.values())


def test_keys_are_read_from_somebodys_own_masks_once():
    key = torch.zeros(2, 2, 7, 8)
    hidden = torch.tensor([[0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]]).bool()
    mask = create_block_mask(
        lambda b, h, q, k: (q >= k) & ~hidden[b, k], 2, None, 7, 7, device="cpu"
    )
    keys = module.read_keys(key, mask, {})
    assert keys.visible.equal(~hidden)
    assert module.read_keys(key, mask, {}) is keys  # in the next layer
    added = torch.zeros(2, 1, 7, 9).masked_fill(
        torch.nn.functional.pad(hidden, (0, 2))[:, None, None, :], torch.finfo(torch.float32).min
    )
    assert module.read_keys(key, added, {}).visible.equal(~hidden)
    assert module.read_keys(key, None, {}).visible.all()


def test_the_block_mask_is_made_once_for_all_layers(monkeypatch):
    made, read = [], []
    model = with_kernel(plain_model("llama", "causal", use_cache=False), "flex_attention")
    hiddenkey.attach(model, hiddenkey.method("dropkey", rate=0.4))
    keys_of = masks.keys_of
    monkeypatch.setattr(module, "keys_of", lambda mask: read.append(mask) or keys_of(mask))
    build = masks._read
    monkeypatch.setattr(masks, "_read", lambda *request: made.append(request) or build(*request))
    inputs = batch("right")
    for _ in range(2):
        model(**inputs)
    assert len(made) == 2  # passes, of two layers each
    assert read[0] is read[1]
    assert read[2] is read[3]
    assert keys_of(read[0]).visible.equal(inputs["attention_mask"].bool())


@pytest.mark.parametrize(
    ("method", "how", "reason"),
    [
        ("dropkey-element", {}, "pattern 'element' differs from query to query"),
        ("dropkey", {"kernel": "reference"}, "kernel='reference' computes one"),
    ],
)
def test_what_needs_a_map_is_refused(method, how, reason):
    model = model_of("llama", "flex")
    with pytest.raises(AttachError, match=f"'flex_attention' has no attention map.*{reason}"):
        hiddenkey.attach(model, method, **how)


def test_a_function_that_would_lose_the_drop_is_refused(monkeypatch):
    """Before transformers 5 it took no bias, and would have ignored one."""
    monkeypatch.setattr(
        "transformers.integrations.flex_attention.flex_attention_forward",
        lambda *args, **more: None,
    )
    module.refusal.cache_clear()
    try:
        with pytest.raises(AttachError, match="adds nothing to FlexAttention's logits; load"):
            hiddenkey.attach(model_of("llama", "flex"), "dropkey")
    finally:
        monkeypatch.undo()
        module.refusal.cache_clear()
