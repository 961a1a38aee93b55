"""A whole attention module: its fused path against the specification, values and gradients."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from hiddenkey import Drop, DropoutConfig
from hiddenkey.attention import fused, kernels, masks
from hiddenkey.attention.keys import VisibleKeys
from hiddenkey.attention.site import AttentionSite, fused_refusal
from hiddenkey.measure import ShareCounter

BATCH, HEADS, LENGTH, WIDTH = 3, 4, 13, 8
SCALING = WIDTH**-0.5
PADDING = (0, 4, 11)  # tokens of padding, by sample


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a model may hand to its attention."""

    causal: bool = False
    padding: str = "none"
    form: str = "stride 0"  # how the mask is laid out
    key_heads: int = HEADS

    def visible(self):
        tokens = torch.arange(LENGTH)
        seen = tokens < LENGTH - torch.tensor(PADDING).unsqueeze(-1)
        if self.padding == "none":
            seen = torch.ones_like(seen)
        return seen.flip(-1) if self.padding == "left" else seen

    def allowed(self):
        allowed = self.visible()[:, None, None, :].expand(-1, -1, LENGTH, -1)
        order = torch.ones(LENGTH, LENGTH, dtype=torch.bool)
        return allowed & (order.tril() if self.causal else order)

    def mask(self, dtype):
        """As transformers' mask builders make it; ``float`` is that of eager attention."""
        if self.form == "none":
            return None
        if self.form == "stride 0":
            return self.visible()[:, None, None, :].expand(-1, -1, LENGTH, -1)
        if self.form == "boolean":
            return self.allowed().contiguous()
        bias = torch.zeros(BATCH, 1, LENGTH, LENGTH, dtype=dtype)
        if self.form == "biased":
            distance = torch.arange(LENGTH).unsqueeze(-1) - torch.arange(LENGTH)
            bias = bias - 0.25 * distance.abs().to(dtype)
        return bias.masked_fill(~self.allowed(), torch.finfo(dtype).min)


def possible(causal, padding, form):
    if form == "none":  # the mask builder of sdpa leaves it out where nothing is padded
        return padding == "none"
    return form != "stride 0" or not causal


SETTINGS = [
    Setting(causal, padding, form, key_heads)
    for causal, padding, form, key_heads in itertools.product(
        (False, True),
        ("none", "left", "right"),
        ("none", "stride 0", "boolean", "float", "biased"),
        (HEADS, 2),
    )
    if possible(causal, padding, form)
]
DROPS = {
    "dropkey": Drop("attention_logits", "column", 0.4),
    "dropkey-span": Drop("attention_logits", "span", 0.4),
    "dropattention": Drop("attention_weights", "column", 0.4),
    "dropattention-span": Drop("attention_weights", "span", 0.4),
    "dropattention-with-gradient": Drop(
        "attention_weights", "column", 0.4, "normalised-with-gradient"
    ),
}


def make_site(drop, *, is_fused, **switches):
    position = drop.position
    return AttentionSite(
        logits=drop if position == "attention_logits" else None,
        weights=drop if position == "attention_weights" else None,
        config=DropoutConfig((drop,), **switches),
        is_fused=is_fused,
        counting=lambda: True,
        counters={position: ShareCounter()},
    )


def inputs(setting, dtype):
    query = torch.randn(BATCH, HEADS, LENGTH, WIDTH)
    key, value = torch.randn(2, BATCH, setting.key_heads, LENGTH, WIDTH)
    return [tensor.to(dtype).requires_grad_() for tensor in (query, key, value)]


def attend(site, setting, tensors, seed=5):
    torch.manual_seed(seed)
    return site.attend(
        *tensors,
        setting.mask(tensors[0].dtype),
        is_causal=setting.causal,
        mask_implies_causal=setting.form == "none",
        scaling=SCALING,
        dropout=0.0,
    )


def outcome(site, setting, tensors, seed=5):
    """Return the output and its gradients to query, key and value, all in float64."""
    output = attend(site, setting, tensors, seed)
    direction = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
    gradients = torch.autograd.grad((output.double() * direction).sum(), tensors)
    return [tensor.detach().double() for tensor in (output, *gradients)]


def check(drop, setting, dtype, seed=5, **switches):
    """Hold the fused path in ``dtype`` against the specification in float64, masks being equal."""
    tensors = inputs(setting, dtype)
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    fast = outcome(make_site(drop, is_fused=True, **switches), setting, tensors, seed)
    exact = outcome(make_site(drop, is_fused=False, **switches), setting, wide, seed)
    # entries are about 1; bfloat16 has 8 bits, and the division doubles its error
    tolerance = 2e-5 if dtype == torch.float32 else 0.04
    for found, expected in zip(fast, exact, strict=True):
        assert found.isfinite().all()
        atol = tolerance * max(1.0, expected.abs().max().item())
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=atol)


def named(setting):
    kind = "causal" if setting.causal else "encoder"
    return f"{kind}, padding {setting.padding}, mask {setting.form}, {setting.key_heads} key heads"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("keep_first", [True, False], ids=["keep first", "rescue"])
@pytest.mark.parametrize("name", DROPS)
@pytest.mark.parametrize("setting", SETTINGS, ids=named)
def test_fused_equals_the_specification(setting, name, keep_first, dtype):
    check(DROPS[name], setting, dtype, keep_first=keep_first)


@pytest.mark.parametrize("name", DROPS)
@pytest.mark.parametrize("causal", [False, True], ids=["encoder", "causal"])
def test_fused_equals_the_specification_with_shared_heads(causal, name):
    setting = Setting(causal, "left", "boolean", key_heads=2)
    check(DROPS[name], setting, torch.float32, share_heads=True)


@pytest.mark.parametrize("name", DROPS)
@pytest.mark.parametrize("causal", [False, True], ids=["encoder", "causal"])
def test_fused_equals_the_specification_where_queries_lose_every_key(causal, name):
    drop = dataclasses.replace(DROPS[name], rate=0.95)
    setting = Setting(causal, form="boolean")
    for seed in range(5):
        check(drop, setting, torch.float32, seed=seed, keep_first=False)


@pytest.mark.parametrize("name", DROPS)
@pytest.mark.parametrize("form", ["none", "boolean"])
def test_without_the_guarded_kernel_the_other_form_serves(monkeypatch, name, form):
    monkeypatch.setattr(kernels, "serves", lambda *kind, **more: False)
    monkeypatch.setattr(fused, "narrow_backward_works", lambda dtype: False)
    monkeypatch.setattr(
        torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None
    )  # the guarded kernel is not called by name
    check(DROPS[name], Setting(True, form=form), torch.float32)


@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "reference"])
@pytest.mark.parametrize("setting", SETTINGS, ids=named)
def test_rate_zero_is_plain_attention(setting, is_fused):
    tensors = inputs(setting, torch.float32)
    query, key, value = tensors
    plain = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=setting.mask(torch.float32),
        is_causal=setting.causal and setting.form == "none",
        scale=SCALING,
        enable_gqa=setting.key_heads < HEADS,
    )
    rows = setting.allowed().any(-1).expand(-1, HEADS, -1)  # of queries that see a key
    for drop in DROPS.values():
        site = make_site(dataclasses.replace(drop, rate=0.0), is_fused=is_fused)
        found = attend(site, setting, tensors)
        torch.testing.assert_close(found[rows], plain[rows], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["none", "boolean", "float"])
@pytest.mark.parametrize("causal", [False, True], ids=["encoder", "causal"])
@pytest.mark.parametrize("values", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", DROPS)
def test_autocast_is_served(name, values, causal, form):
    """Rotary embeddings leave query and key in float32, while the value is in half precision."""
    kernels._passes.cache_clear()
    fused._passes.cache_clear()
    setting = Setting(causal, form=form, key_heads=2)
    rounded = [tensor.bfloat16().double() for tensor in inputs(setting, torch.float32)]
    wide = [tensor.detach().requires_grad_() for tensor in rounded]
    dtypes = (torch.float32, torch.float32, values)
    mixed = [
        tensor.detach().to(dtype).requires_grad_()
        for tensor, dtype in zip(rounded, dtypes, strict=True)
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = outcome(make_site(DROPS[name], is_fused=True), setting, mixed)
    exact = outcome(make_site(DROPS[name], is_fused=False), setting, wide)
    for found, expected in zip(fast, exact, strict=True):
        atol = 0.04 * max(1.0, expected.abs().max().item())
        torch.testing.assert_close(found, expected, rtol=0.04, atol=atol)


BLIND = [
    Setting(causal, padding, form)
    for causal, padding, form in itertools.product(
        (False, True), ("left", "right"), ("stride 0", "boolean", "float")
    )
    if possible(causal, padding, form)
]


@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "reference"])
@pytest.mark.parametrize("keep_first", [True, False])
@pytest.mark.parametrize("name", DROPS)
@pytest.mark.parametrize("setting", BLIND, ids=named)
def test_queries_that_see_no_key_give_zero(monkeypatch, setting, name, keep_first, is_fused):
    monkeypatch.setitem(globals(), "PADDING", (0, 4, LENGTH))  # nothing of the last is visible
    tensors = inputs(setting, torch.float32)
    site = make_site(DROPS[name], is_fused=is_fused, keep_first=keep_first)
    output = attend(site, setting, tensors)
    blind = ~setting.allowed().any(-1).expand(-1, HEADS, -1)
    assert blind[-1].all()
    assert output[blind].eq(0).all()
    assert output.isfinite().all()
    for gradient in torch.autograd.grad(output.square().sum(), tensors):
        assert gradient.isfinite().all()
        assert gradient[-1].eq(0).all()


@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "reference"])
@pytest.mark.parametrize("name", DROPS)
def test_dropped_keys_do_not_reach_the_output(name, is_fused):
    """Values that stand out show which keys each head kept; the count is the measured share."""
    setting = Setting(padding="right")
    site = make_site(DROPS[name], is_fused=is_fused)
    torch.manual_seed(0)
    query, key = torch.zeros(2, BATCH, HEADS, LENGTH, LENGTH)
    value = torch.eye(LENGTH).expand(BATCH, HEADS, -1, -1)  # the output holds the weights
    weights = attend(site, setting, [query, key, value])
    assert weights.equal(weights[:, :, :1].expand_as(weights))
    fallen = weights[:, :, 0].lt(1e-9)
    seen = setting.visible().unsqueeze(1).expand_as(fallen)
    assert fallen[~seen].all()
    share = (fallen & seen).sum().item() / seen.sum().item()
    assert site.counters[DROPS[name].position].read() == pytest.approx(share, rel=1e-6)
    kept = (~fallen).sum(-1, keepdim=True)
    expected = (~fallen).float() / kept  # equal logits: equal shares of what is left
    torch.testing.assert_close(weights[:, :, 0], expected, rtol=1e-5, atol=1e-7)


def weights_of(site, causal, form="none", samples=400):
    """Return the weights of a site for equal logits: ``[samples, heads, LENGTH, LENGTH]``."""
    query, key = torch.zeros(2, samples, HEADS, LENGTH, LENGTH)
    order = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool)
    order = order.tril() if causal else order
    return site.attend(
        query,
        key,
        torch.eye(LENGTH).expand(samples, HEADS, -1, -1),
        None if form == "none" else order,
        is_causal=causal,
        mask_implies_causal=form == "none",
        scaling=1.0,
        dropout=0.0,
    )


@pytest.mark.parametrize("form", ["none", "boolean"])
@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "reference"])
@pytest.mark.parametrize("name", DROPS)
def test_first_key_falls_unless_a_causal_site_keeps_it(name, is_fused, form):
    def share(causal, keep_first):
        site = make_site(DROPS[name], is_fused=is_fused, keep_first=keep_first)
        last = weights_of(site, causal, form)[:, :, -1]  # the query that sees every key
        return last[..., 0].lt(1e-9).double().mean().item()

    assert share(causal=True, keep_first=True) == 0
    expected = 0.4 if DROPS[name].pattern == "column" else 1 / 9  # 5 of 13 keys, 9 starts
    for causal, keep_first in ((True, False), (False, True), (False, False)):
        assert share(causal, keep_first) == pytest.approx(expected, abs=0.08)


@pytest.mark.parametrize(
    ("name", "is_fused"),
    [*itertools.product(DROPS, (True, False)), ("element", False)],
)
def test_heads_share_a_draw_where_they_are_told_to(name, is_fused):
    drop = DROPS.get(name, Drop("attention_logits", "element", 0.4))
    for share_heads in (True, False):
        site = make_site(drop, is_fused=is_fused, share_heads=share_heads)
        weights = weights_of(site, causal=False)
        assert weights[:, 0].equal(weights[:, 1]) is share_heads
        assert not weights[0].equal(weights[1])  # samples never share


@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "reference"])
def test_a_causal_site_without_a_mask_ignores_the_empty_rest_of_a_cache(is_fused):
    site = make_site(dataclasses.replace(DROPS["dropkey"], rate=0.0), is_fused=is_fused)
    query = torch.randn(BATCH, HEADS, LENGTH, WIDTH)
    key, value = torch.randn(2, BATCH, HEADS, LENGTH + 6, WIDTH)
    found = attend(site, Setting(causal=True, form="none"), [query, key, value])
    expected = F.scaled_dot_product_attention(
        query, key[:, :, :LENGTH], value[:, :, :LENGTH], is_causal=True, scale=SCALING
    )
    torch.testing.assert_close(found, expected)
    span = make_site(DROPS["dropkey-span"], is_fused=is_fused, keep_first=False)
    value = torch.eye(LENGTH + 6).expand(BATCH, HEADS, -1, -1)
    weights = attend(span, Setting(causal=True, form="none"), [query, key, value])
    fallen = weights[:, :, -1, :LENGTH].lt(1e-9).sum(-1)
    assert fallen.eq(round(0.4 * LENGTH)).all()  # the run is counted among the keys in sight


@pytest.mark.parametrize("position", ["attention_logits", "attention_weights"])
@pytest.mark.parametrize("causal", [False, True], ids=["encoder", "causal"])
def test_element_patterns_drop_entry_by_entry(position, causal):
    rescale = "normalised" if position == "attention_weights" else None
    drop = Drop(position, "element", 0.5, rescale)
    setting = Setting(causal, form="boolean")
    site = make_site(drop, is_fused=False)
    query, key = torch.zeros(2, BATCH, HEADS, LENGTH, LENGTH)
    value = torch.eye(LENGTH).expand(BATCH, HEADS, -1, -1)
    weights = attend(site, setting, [query, key, value])
    allowed = setting.allowed().expand_as(weights)
    assert weights[~allowed].eq(0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(BATCH, HEADS, LENGTH))
    fallen = weights.eq(0) & allowed
    assert not fallen.equal(fallen[:, :, :1].expand_as(fallen))
    share = fallen.sum().item() / allowed.sum().item()
    assert site.counters[position].read() == pytest.approx(share, abs=0.02)  # counted as drawn
    if causal:  # the first key is protected
        assert weights[..., 0].gt(0).all()


def test_both_positions_drop_independently():
    logits, weights = Drop("attention_logits", "column", 0.4), DROPS["dropattention"]
    site = AttentionSite(
        logits=logits,
        weights=weights,
        config=DropoutConfig((logits, weights)),
        is_fused=False,
        counting=lambda: True,
        counters={drop.position: ShareCounter() for drop in (logits, weights)},
    )
    length = 400
    query, key = torch.zeros(2, 1, 2, length, 4)
    output = site.attend(
        query,
        key,
        torch.eye(length).expand(1, 2, -1, -1),
        None,
        is_causal=False,
        mask_implies_causal=True,
        scaling=1.0,
        dropout=0.0,
    )
    fallen = output.eq(0).double().mean().item()
    shares = [counter.read() for counter in site.counters.values()]
    survive = (1 - shares[0]) * (1 - shares[1])
    assert 1 - fallen == pytest.approx(survive, abs=0.05)


def test_draws_that_are_not_to_be_counted_are_not():
    site = make_site(DROPS["dropkey"], is_fused=True)
    site.counting = lambda: False
    attend(site, Setting(), inputs(Setting(), torch.float32))
    assert math.isnan(site.counters["attention_logits"].read())


@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "reference"])
def test_one_causal_query_sees_all_keys_of_a_cache(is_fused):
    """Without a mask, one query is the last of the sequence."""
    site = make_site(dataclasses.replace(DROPS["dropkey"], rate=0.0), is_fused=is_fused)
    query = torch.randn(BATCH, HEADS, 1, WIDTH)
    key, value = torch.randn(2, BATCH, HEADS, LENGTH, WIDTH)
    found = attend(site, Setting(causal=True, form="none"), [query, key, value])
    expected = F.scaled_dot_product_attention(query, key, value, scale=SCALING)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("drops", "keep_model_dropout", "reason"),
    [
        ([Drop("attention_logits", "column", 0.1)], False, None),
        ([Drop("attention_logits", "span", 0.1)], False, None),
        ([Drop("attention_weights", "column", 0.1)], False, None),
        (
            [Drop("attention_weights", "span", 0.1, "normalised-with-gradient")],
            False,
            None,
        ),
        (
            [Drop("attention_logits", "column", 0.1), Drop("attention_weights", "column", 0.1)],
            False,
            "one attention position at a time",
        ),
        ([Drop("attention_logits", "element", 0.1)], False, "'element' differs from query to"),
        ([Drop("attention_weights", "column", 0.1, "inverse")], False, "'inverse' does not renorm"),
        ([Drop("attention_weights", "column", 0.1, "none")], False, "'none' does not renorm"),
        ([Drop("attention_logits", "column", 0.1)], True, "own attention dropout on"),
    ],
)
def test_what_the_fused_path_refuses(drops, keep_model_dropout, reason):
    refusal = fused_refusal(drops, keep_model_dropout)
    assert refusal is None if reason is None else reason in refusal


@pytest.mark.parametrize("name", DROPS)
@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("causal", [False, True], ids=["encoder", "causal"])
def test_values_may_have_another_width_than_keys(causal, padding, name):
    visible = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    if padding == "left":
        visible[1, :3] = False
    allowed = visible[:, None, None, :].expand(-1, -1, LENGTH, -1)
    allowed = (allowed & torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()) if causal else allowed
    keys = VisibleKeys(visible)
    known = masks.Built(masks.Structure(keys, causal), keys)
    masks._KNOWN[allowed] = (allowed._version, known)
    found = []
    for is_fused in (True, False):
        torch.manual_seed(1)
        query, key = torch.randn(2, BATCH, HEADS, LENGTH, WIDTH).unbind()
        tensors = [t.requires_grad_() for t in (query, key, torch.randn(BATCH, HEADS, LENGTH, 5))]
        site = make_site(DROPS[name], is_fused=is_fused)
        torch.manual_seed(2)
        output = site.attend(
            *tensors,
            allowed,
            is_causal=causal,
            mask_implies_causal=False,
            scaling=SCALING,
            dropout=0.0,
        )
        found.append([output, *torch.autograd.grad(output.square().sum(), tensors)])
    for fast, exact in zip(*found, strict=True):
        torch.testing.assert_close(fast, exact, rtol=1e-4, atol=1e-4)
