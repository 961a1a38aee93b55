"""Drops inside FlashAttention's interface: its functions by a stand-in that computes exactly.

transformers' own code calls the stand-in, with padding taken out and sequences packed as for the
real kernels, whose signature it has. What it is given must be what they take.
"""

import gc

import pytest
import torch
from transformers import AttentionInterface

import hiddenkey
from attention_kernels import METHODS, batch, given_masks, model_of, passed, use_flash, with_kernel
from hiddenkey import AttachError
from hiddenkey.attention import flash as flash_module
from hiddenkey.attention import reference
from hiddenkey.attention.dispatch import PREFIX
from hiddenkey.attention.flash import attend, read_keys
from models import assert_same_gradients, plain_model


@pytest.fixture(autouse=True)
def flash(monkeypatch):
    return use_flash(monkeypatch)


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["bert", "llama", "mistral"])
def test_values_and_gradients_are_those_of_pytorchs_kernel(kind, method, side, flash):
    if (kind, side) == ("bert", "left"):
        pytest.skip("its classifier reads the first token, which is padding here")
    inputs = batch(side)
    logits, expected, shares = passed(model_of(kind, "sdpa"), inputs, method)
    found, gradient, own_shares = passed(model_of(kind, "flash"), inputs, method)
    assert flash.calls
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)
    assert_same_gradients(gradient, expected, rtol=1e-3, atol=2e-4)
    assert own_shares == pytest.approx(shares)


@pytest.mark.parametrize("method", ["dropkey", "dropattention"])
def test_a_soft_cap_stays(method):
    """As eager attention computes it, whose softmax is intercepted."""
    inputs = batch("right")
    logits, expected, _ = passed(model_of("gemma2", "eager"), inputs, method)
    found, gradient, _ = passed(model_of("gemma2", "flash"), inputs, method)
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)
    assert_same_gradients(gradient, expected, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("method", ["dropkey", "dropattention"])
@pytest.mark.parametrize(("width", "given"), [(8, 16), (20, 24), (248, 256), (256, 256)])
def test_heads_of_every_width_fit_the_kernel(width, given, method, flash):
    """Of 256 there is no room for a column, and the kept weight takes a pass of its own."""
    draws = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, 2, 6, width, generator=draws, dtype=torch.float64).requires_grad_()
        for _ in range(3)
    )
    keep = torch.rand(2, 2, 6, generator=draws) > 0.4
    keep[..., 0] = True

    def plain(q, k, v, scaling):
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        return flash.fixed(q, k, v, softmax_scale=scaling, causal=True), None

    found = attend(
        plain, query, key, value, keep, scaling=0.3, stop_gradient=method == "dropattention"
    ).transpose(1, 2)
    gradient = torch.autograd.grad(found.square().sum(), (query, key, value))
    masks = {"logits_keep" if method == "dropkey" else "weights_keep": keep.unsqueeze(-2)}
    rest = {} if method == "dropkey" else {"rescaling": "normalised"}
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    exact = reference.attention(query, key, value, allowed=causal, scaling=0.3, **masks, **rest)
    expected = torch.autograd.grad(exact.square().sum(), (query, key, value))
    assert flash.widths == {given}
    assert len(flash.calls) == (2 if width == 256 else 1)
    for one, other in zip((found, *gradient), (exact, *expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_sequences_are_read_from_lengths_positions_and_masks():
    key = torch.zeros(1, 2, 7, 8)
    starts = torch.tensor([[1, 0, 0, 1, 1, 0, 1]]).bool()  # one of a single token among them
    lengths = {"cu_seq_lens_k": torch.tensor([0, 3, 4, 6, 7], dtype=torch.int32)}
    positions = {"position_ids": torch.tensor([[0, 1, 2, 0, 0, 1, 0]])}
    for known in (lengths, positions):
        keys = read_keys(key, None, known)
        assert torch.equal(keys.starts, starts)
        assert torch.equal(keys.first, starts)
        assert torch.equal(keys.apart.visible.sum(1), torch.tensor([3, 1, 2, 1]))
        assert read_keys(key, None, known) is keys  # in the next layer
    for plain in ({}, {"position_ids": torch.arange(7)[None]}, {"position_ids": None}):
        assert read_keys(key, None, plain).first.nonzero().tolist() == [[0, 0]]
    mask = torch.tensor([[9, 0, 0, 1, 1, 1, 0, 0]])  # longer than the keys: its end counts
    keys = read_keys(key, mask, {})
    assert torch.equal(keys.visible, mask[:, 1:].bool())
    assert keys.first.nonzero().tolist() == [[0, 2]]


def test_what_was_read_is_forgotten_with_what_it_was_read_from():
    mask = torch.ones(1, 7, dtype=torch.bool)
    before = len(flash_module._READ)
    keys = read_keys(torch.zeros(1, 2, 7, 8), mask, {})
    assert len(flash_module._READ) == before + 1
    mask[0, 0] = False  # written into: read again
    assert read_keys(torch.zeros(1, 2, 7, 8), mask, {}).visible[0].tolist() == [False] + [True] * 6
    del mask, keys
    gc.collect()
    assert len(flash_module._READ) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["dropkey", "dropattention"])
def test_in_half_precision_it_is_near_the_exact_one(method, dtype):
    inputs = batch("right")
    exact, _, _ = passed(model_of("llama", "flash"), inputs, method)
    model = model_of("llama", "flash").to(dtype)
    found, gradient, _ = passed(model, inputs, method)
    assert (found.float() - exact).norm() < 0.02 * exact.norm()
    assert all(torch.isfinite(each).all() for each in gradient.values())


def test_a_query_whose_keys_all_fall_attends_as_without_noise(monkeypatch):
    """In a window the first key may be out of sight; then nothing that is seen may be lost."""
    for dtype in (torch.float32, torch.float16):
        model = model_of("mistral", "flash").to(dtype)
        inputs = {"input_ids": torch.tensor([[5, 6, 7, 8, 9, 10]])}
        plain = model.eval()(**inputs).logits
        model.train()
        hiddenkey.attach(model, hiddenkey.method("dropkey", rate=0.4))
        with monkeypatch.context() as patch:
            given_masks(patch, torch.zeros(6, dtype=torch.bool))
            torch.testing.assert_close(model(**inputs).logits, plain, rtol=1e-2, atol=1e-2)


def test_names_stay_the_models_own_and_nothing_is_left():
    gc.collect()  # models of other tests
    before = set(AttentionInterface._global_mapping)
    model = model_of("llama", "flash")
    attachment = hiddenkey.attach(model, "dropkey")
    assert model.config._attn_implementation == "flash_attention_2"
    model(input_ids=torch.tensor([[5, 6]]))
    attachment.detach()
    assert {n for n in AttentionInterface._global_mapping if n.startswith(PREFIX)} == {
        name for name in before if name.startswith(PREFIX)
    }


def test_a_change_of_the_implementation_is_followed(flash):
    model = model_of("llama", "sdpa")
    attachment = hiddenkey.attach(model, hiddenkey.method("dropkey", rate=0.5))
    model(input_ids=torch.tensor([[5, 6, 7]]))
    assert not flash.calls
    with_kernel(model)
    model(input_ids=torch.tensor([[5, 6, 7]]))
    assert flash.calls == ["fixed"] * 2
    assert all(share > 0 for share in attachment.shares().values())


@pytest.mark.parametrize(
    ("method", "how", "reason"),
    [
        ("dropkey-element", {}, "pattern 'element' differs from query to query"),
        ("dropkey", {"kernel": "reference"}, "kernel='reference' computes one"),
    ],
)
def test_what_needs_a_map_is_refused(method, how, reason):
    model = model_of("llama", "flash")
    with pytest.raises(AttachError, match=f"'flash_attention_2' has no attention map.*{reason}"):
        hiddenkey.attach(model, method, **how)


def test_other_kernels_are_refused():
    model = with_kernel(plain_model("llama", "causal"), "paged|flash_attention_2")
    with pytest.raises(AttachError, match="flex_attention; this model uses 'paged"):
        hiddenkey.attach(model, "dropkey")
