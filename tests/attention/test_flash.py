"""Drops inside FlashAttention's interface: its functions by a stand-in that computes exactly.

transformers' own code calls the stand-in, with padding taken out and sequences packed as for the
real kernels, whose signature it has. What it is given must be what they take.
"""

import pytest
import torch
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    DataCollatorWithFlattening,
    Gemma2Config,
    MistralConfig,
)
from transformers import modeling_flash_attention_utils as utils

import hiddenkey
from hiddenkey import AttachError
from hiddenkey.attention import reference
from hiddenkey.attention.dispatch import PREFIX
from hiddenkey.attention.flash import attend, read_rows
from hiddenkey.attention.site import AttentionSite
from models import assert_same_gradients, gradients, plain_model, seeded

SEQUENCES = [[5, 6, 7, 8, 9], [10, 14], [11, 12, 13]]
METHODS = ("dropkey", "dropkey-span", "dropattention")


def attention(query, key, value, scale, causal, window, softcap):
    """Attention of one sequence, ``[tokens, heads, width]``, aligned at the last query."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    logits = torch.einsum("qhd,khd->hqk", query.double(), key.double()) * scale
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    place = torch.arange(query.shape[0]) + key.shape[0] - query.shape[0]
    distance = torch.arange(key.shape[0]) - place[:, None]
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    if causal:
        hidden |= distance > 0
    if window[0] >= 0:
        hidden |= distance < -window[0]
    weights = logits.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value.double()).to(query.dtype)


class Kernels:
    """FlashAttention 2's two functions; ``calls`` names what was called, at ``widths`` of heads."""

    def __init__(self):
        self.calls = []
        self.widths = set()

    def check(self, query, key, value):
        assert query.shape[-1] == key.shape[-1] == value.shape[-1]
        assert query.shape[-1] % 8 == 0
        assert query.shape[-1] <= 256
        self.widths.add(query.shape[-1])

    def fixed(
        self, q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
        softcap=0.0, deterministic=False,
    ):  # fmt: skip
        self.check(q, k, v)
        self.calls.append("fixed")
        assert dropout_p == 0
        rows = zip(q, k, v, strict=True)
        return torch.stack(
            [attention(*row, softmax_scale, causal, window_size, softcap) for row in rows]
        )

    def variable(
        self, q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
        softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, deterministic=False,
    ):  # fmt: skip
        self.check(q, k, v)
        self.calls.append("variable")
        assert dropout_p == 0
        ends = [each.tolist() for each in (cu_seqlens_q, cu_seqlens_k)]
        assert max_seqlen_q >= max(b - a for a, b in zip(ends[0], ends[0][1:], strict=False))
        found = []
        for a, b, c, d in zip(ends[0], ends[0][1:], ends[1], ends[1][1:], strict=False):
            own = (q[a:b], k[c:d], v[c:d])
            found.append(attention(*own, softmax_scale, causal, window_size, softcap))
        return torch.cat(found)


@pytest.fixture(autouse=True)
def flash(monkeypatch):
    """Let transformers find the stand-in where it looks for the package."""
    kernels = Kernels()
    found = (kernels.fixed, kernels.variable, None, utils._pad_input, utils._unpad_input)
    names = ("_flash_fn", "_flash_varlen_fn", "_flash_with_kvcache_fn", "_pad_fn", "_unpad_fn")
    for name, function in zip(names, found, strict=True):
        monkeypatch.setattr(utils, name, function)
    process = utils._lazy_define_process_function(kernels.variable)
    monkeypatch.setattr(utils, "_process_flash_kwargs_fn", process)
    monkeypatch.setattr(utils, "_process_with_kvcache_kwargs_fn", dict)
    monkeypatch.setattr(utils, "_loaded_implementation", "flash_attention_2")
    return kernels


def with_flash(model, name="flash_attention_2"):
    model.config._attn_implementation_internal = name
    return model


def model_of(kind, implementation):
    """The same tiny model, with an implementation of attention."""
    more = {"use_cache": False}
    if kind in ("bert", "llama"):
        task = "causal" if kind == "llama" else "classification"
        model = plain_model(kind, task, **(more if kind == "llama" else {}))
    else:
        sizes = {
            "vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
            "initializer_range": 0.2, "sliding_window": 3, **more,
        }  # fmt: skip
        config = (MistralConfig if kind == "mistral" else Gemma2Config)(**sizes)
        with seeded(0):
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").train()
    if implementation == "flash":
        return with_flash(model)
    model.config._attn_implementation_internal = implementation
    return model


def batch(side):
    """Three sequences of several lengths, padded on one side or cut to one length."""
    if side == "none":
        tokens = torch.tensor([[5, 6, 7], [10, 14, 3], [11, 12, 13]])
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    width = max(map(len, SEQUENCES))
    rows = [[0] * (width - len(s)) + s if side == "left" else s + [0] * (width - len(s))
            for s in SEQUENCES]  # fmt: skip
    tokens = torch.tensor(rows)
    return {"input_ids": tokens, "attention_mask": (tokens != 0).long()}


def passed(model, inputs, method, seed=0, rate=0.4):
    """Logits at the tokens, and the gradients, of one pass under noise."""
    attachment = hiddenkey.attach(model, hiddenkey.method(method, rate=rate))
    with seeded(seed):
        logits = model(**inputs).logits
    seen = logits[inputs["attention_mask"].bool()] if logits.dim() == 3 else logits
    seen.square().sum().backward()
    shares = attachment.shares()
    attachment.detach()
    return seen.detach(), gradients(model), shares


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


def packed(with_lengths):
    collate = DataCollatorWithFlattening(return_flash_attn_kwargs=with_lengths)
    inputs = collate([{"input_ids": each, "labels": each} for each in SEQUENCES])
    return {name: value for name, value in inputs.items() if name != "labels"}


counted = AttentionSite._draw_keys


def given_masks(monkeypatch, keep):
    """Let every draw be this one, ``[keys]`` for all heads; of packed sequences the row's."""

    def draw(self, drop, keys, heads, protect_first):
        counted(self, drop, keys, heads, protect_first)
        return keep[: keys.visible.shape[1]].expand(keys.visible.shape[0], heads, -1)

    monkeypatch.setattr(AttentionSite, "_draw_keys", draw)


@pytest.mark.parametrize("with_lengths", [False, True], ids=["positions", "lengths"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_a_packed_row_is_its_sequences_alone(method, rate, with_lengths, monkeypatch, flash):
    keep = torch.tensor([1, 0, 1, 1, 0, 1, 0, 1, 1, 0]).bool()
    single, row = model_of("llama", "flash"), model_of("llama", "flash")
    for model in (single, row):
        hiddenkey.attach(model, hiddenkey.method(method, rate=rate))
    given_masks(monkeypatch, keep)
    found = row(**packed(with_lengths)).logits[0]
    found.square().sum().backward()
    assert set(flash.calls) == {"variable"}
    begin = 0
    for sequence in SEQUENCES:
        end = begin + len(sequence)
        given_masks(monkeypatch, keep[begin:end])
        alone = single(input_ids=torch.tensor([sequence])).logits[0]
        torch.testing.assert_close(alone, found[begin:end], rtol=1e-4, atol=1e-5)
        alone.square().sum().backward()
        begin = end
    assert_same_gradients(gradients(row), gradients(single), rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("with_lengths", [False, True], ids=["positions", "lengths"])
@pytest.mark.parametrize("method", METHODS)
def test_each_packed_sequence_has_its_own_draw_and_keeps_its_first_key(
    method, with_lengths, monkeypatch
):
    model = model_of("llama", "flash")
    hiddenkey.attach(model, hiddenkey.method(method, rate=0.6))
    seen = []
    draw = AttentionSite._draw_rows

    def watched(*arguments):
        seen.append(draw(*arguments))
        return seen[-1]

    monkeypatch.setattr(AttentionSite, "_draw_rows", watched)
    for seed in range(20):
        with seeded(seed):
            model(**packed(with_lengths))
    keeps = torch.cat(seen)
    assert keeps.shape[1:] == (4, 10)
    assert keeps[..., [0, 5, 7]].all()
    assert all(not keeps[..., key].all() for key in (1, 2, 3, 4, 6, 8, 9))
    if method == "dropkey-span":  # round(0.6 · n) neighbours of each sequence, whatever the others
        for begin, end in ((0, 5), (5, 7), (7, 10)):
            dropped = (~keeps[..., begin:end]).float()
            edges = torch.nn.functional.pad(dropped, (1, 1)).diff(dim=-1).abs().sum(-1)
            assert edges.max() <= 2


def test_rows_are_read_from_lengths_positions_and_masks():
    key = torch.zeros(1, 2, 6, 8)
    starts = torch.tensor([[1, 0, 0, 1, 0, 1]]).bool()
    lengths = {"cu_seq_lens_k": torch.tensor([0, 3, 5, 6], dtype=torch.int32)}
    positions = {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 0]])}
    for known in (lengths, positions):
        rows = read_rows(key, None, known)
        assert rows.sequences == 3
        assert torch.equal(rows.starts, starts)
        assert torch.equal(rows.apart().sum(1), torch.tensor([3, 2, 1]))
    for plain in ({}, {"position_ids": torch.arange(6)[None]}, {"position_ids": None}):
        rows = read_rows(key, None, plain)
        assert rows.sequences is None
        assert rows.starts.nonzero().tolist() == [[0, 0]]
    mask = torch.tensor([[9, 0, 0, 1, 1, 1, 0]])  # longer than the keys: its end counts
    rows = read_rows(key, mask, {})
    assert torch.equal(rows.visible, mask[:, 1:].bool())
    assert rows.starts.nonzero().tolist() == [[0, 2]]


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
    with_flash(model)
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
    model = with_flash(plain_model("llama", "causal"), "flex_attention")
    with pytest.raises(AttachError, match="flash_attention_4; this model uses 'flex_attention'"):
        hiddenkey.attach(model, "dropkey")
