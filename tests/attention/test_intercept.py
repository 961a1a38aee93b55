"""Attention outside transformers' interface: the same specification, by the calls it makes."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

import hiddenkey
from hiddenkey import AttachError, Drop, DropoutConfig
from hiddenkey.attention import dispatch, reference
from hiddenkey.attention.intercept import Interception, intercept, remove_interrupted
from hiddenkey.attention.site import AttentionSite
from hiddenkey.measure import ShareCounter
from models import FAMILIES, assert_same_gradients, batch, plain_model, run, seeded, step

BATCH, HEADS, LENGTH, WIDTH = 3, 4, 13, 8
DROPS = [
    Drop("attention_logits", "column", 0.4),
    Drop("attention_logits", "span", 0.4),
    Drop("attention_logits", "element", 0.4),
    Drop("attention_weights", "column", 0.4),
    Drop("attention_weights", "element", 0.4),
    Drop("attention_weights", "column", 0.4, "normalised-with-gradient"),
    Drop("attention_weights", "column", 0.4, "inverse"),
]


def make_site(*drops, is_fused=False, **settings):
    by_position = {drop.position: drop for drop in drops}
    return AttentionSite(
        logits=by_position.get("attention_logits"),
        weights=by_position.get("attention_weights"),
        config=DropoutConfig(drops, **settings),
        is_fused=is_fused,
        counting=lambda: True,
        counters={drop.position: ShareCounter() for drop in drops},
        is_intercepted=True,
    )


class BySoftmax(nn.Module):
    """Writes its attention out, in one of the ways in which people call softmax."""

    def __init__(self, softmax):
        super().__init__()
        self.softmax = softmax

    def forward(self, query, key, value, allowed, masked):
        logits = query @ key.transpose(-1, -2) / math.sqrt(WIDTH)
        logits = logits.masked_fill(~allowed, masked)
        return self.softmax(logits) @ value


class BySdpa(nn.Module):
    def forward(self, query, key, value, allowed, masked):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)


SOFTMAXES = {
    "torch.softmax": lambda x: torch.softmax(x, -1),
    "functional": lambda x: F.softmax(x, dim=-1),
    "functional in float32": lambda x: F.softmax(x, dim=-1, dtype=torch.float32).to(x.dtype),
    "method": lambda x: x.softmax(x.dim() - 1),
    "keywords": lambda x: torch.softmax(input=x, dim=-1),
    "module": nn.Softmax(dim=-1),
    "heads folded": lambda x: torch.softmax(x.flatten(0, 1), -1).view_as(x),
}


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (BATCH, HEADS, LENGTH, WIDTH)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    return [tensor.requires_grad_() for tensor in made]


def allowed_keys(causal, padding):
    allowed = torch.ones(BATCH, 1, LENGTH, LENGTH, dtype=torch.bool)
    if causal:
        allowed = allowed.tril()
    allowed[0, :, :, :4] &= padding != "left"
    allowed[0, :, :, -4:] &= padding != "right"
    return allowed


def outcome(run, inputs, seed=5):
    torch.manual_seed(seed)
    output = run()
    direction = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output, *torch.autograd.grad((output * direction).sum(), inputs)]


@pytest.mark.parametrize("masked", [torch.finfo(torch.float64).min, -1e4])
@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "drop", DROPS, ids=lambda drop: f"{drop.position}-{drop.pattern}-{drop.rescaling}"
)
@pytest.mark.parametrize("way", ["torch.softmax", "sdpa"])
def test_intercepted_calls_equal_the_specification(way, drop, causal, padding, masked):
    """Values and gradients, with the masks that the site itself draws for its own path."""
    allowed, inputs = allowed_keys(causal, padding), tensors()
    module = (BySdpa() if way == "sdpa" else BySoftmax(SOFTMAXES[way])).train()
    handles = intercept(module, make_site(drop))
    found = outcome(lambda: module(*inputs, allowed, masked), inputs)
    for handle in handles:
        handle.remove()
    site = make_site(drop)
    mask = torch.zeros(allowed.shape, dtype=torch.float64)
    mask = mask.masked_fill(~allowed, torch.finfo(torch.float64).min)
    expected = outcome(
        lambda: site.attend(
            *inputs,
            mask,
            is_causal=causal,
            mask_implies_causal=False,
            scaling=WIDTH**-0.5,
            dropout=0.0,
        ),
        inputs,
    )
    sees = allowed.any(-1, keepdim=True)  # what others get is nobody's business
    torch.testing.assert_close(found[0] * sees, expected[0] * sees, rtol=1e-9, atol=1e-12)
    if sees.all():
        for one, other in zip(found[1:], expected[1:], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("way", SOFTMAXES)
def test_every_way_of_calling_softmax(way):
    inputs, allowed = tensors(), allowed_keys(True, "none")
    drop = Drop("attention_logits", "column", 0.5)
    modules = {name: BySoftmax(SOFTMAXES[name]).train() for name in ("torch.softmax", way)}
    outputs = []
    for module in modules.values():
        site = make_site(drop)
        intercept(module, site)
        torch.manual_seed(3)
        outputs.append(module(*inputs, allowed, -1e30))
        assert 0.2 < site.counters["attention_logits"].read() < 0.6
    if way != "heads folded":  # which draws in another order
        torch.testing.assert_close(outputs[-1].float(), outputs[0].float())


def test_a_softmax_over_something_else_is_left_alone():
    """Over queries, over experts, over a vector."""
    site, logits = make_site(Drop("attention_logits", "column", 0.9)), torch.randn(2, 3, 5, 5)
    with Interception(site, nn.Identity()) as mode:
        assert torch.equal(logits.softmax(-2), torch.softmax(logits, -2))
        assert torch.equal(logits[0, 0].softmax(-1), torch.special.softmax(logits[0, 0], -1))
        assert mode.served == 0


def test_sinks_do_not_fall_and_do_not_save_a_query():
    """Columns behind the keys stand for nothing that could be dropped."""
    logits = torch.zeros(200, 1, 6, 8)
    site = make_site(Drop("attention_logits", "column", 0.7), keep_first=False)
    with Interception(site, nn.Identity(), keys=7):
        weights = logits.softmax(-1)
    kept = weights[..., :7] > 0
    assert (weights[..., 7] > 0).all()
    assert kept.any(-1).all()
    assert kept.float().mean() == pytest.approx(0.3, abs=0.1)
    assert site.counters["attention_logits"].read() == pytest.approx(1 - kept.float().mean().item())


def test_a_key_is_dropped_for_all_queries_of_a_head():
    logits = torch.randn(2, 4, 9, 9)
    with Interception(make_site(Drop("attention_logits", "column", 0.5)), nn.Identity()):
        fallen = logits.softmax(-1) == 0
    assert torch.equal(fallen, fallen[:, :, :1].expand_as(fallen))
    assert fallen.any()
    assert not torch.equal(fallen[:, 0], fallen[:, 1]), "heads differ"


def test_the_first_visible_key_stays_where_the_order_counts():
    logits = torch.zeros(50, 2, 6, 6).masked_fill(~allowed_keys(True, "none")[0, :, :6, :6], -1e9)
    logits[0, :, :, :2] = -1e9  # padding on the left
    with Interception(make_site(Drop("attention_logits", "column", 0.8)), nn.Identity()):
        weights = logits.softmax(-1)
    assert (weights[1:, :, :, 0] > 0).all()
    assert (weights[0, :, 2:, 2] > 0).all()
    with Interception(make_site(Drop("attention_logits", "column", 0.8)), nn.Identity()):
        weights = torch.zeros(50, 2, 6, 6).softmax(-1)
    assert not (weights[:, :, :, 0] > 0).all(), "without order the first key may fall"


def test_a_distant_logit_is_no_key_that_a_query_could_live_on():
    """Swin adds −100 where windows do not meet: such keys must not take over."""
    logits = torch.zeros(200, 1, 4, 4)
    logits[:, :, :2, 2:] = logits[:, :, 2:, :2] = -100.0
    config = make_site(Drop("attention_logits", "column", 0.7), keep_first=False)
    with Interception(config, nn.Identity()):
        weights = logits.softmax(-1)
    assert (weights[:, :, :2, 2:] < 1e-6).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(200, 1, 4))


class Encoder(nn.Module):
    def __init__(self, batch_first=True, norm_first=False):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            32, 4, 64, dropout=0.0, batch_first=batch_first, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(32, 3)

    def forward(self, states, padding=None):
        return self.head(self.encoder(states, src_key_padding_mask=padding))


@pytest.mark.parametrize("norm_first", [False, True])
def test_torchs_own_encoder(norm_first):
    model, states = Encoder(norm_first=norm_first).eval(), torch.randn(4, 12, 32)
    padding = torch.zeros(4, 12, dtype=torch.bool)
    padding[0, 8:] = True
    expected = model(states, padding)
    attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey-minus", rate=0.3))
    assert [(site.name, site.kernel) for site in attachment.sites] == [
        *((f"encoder.layers.{n}.self_attn", "intercepted") for n in range(3)),
        *((f"encoder.layers.{n}.linear2", "hook") for n in range(3)),
    ]
    assert torch.equal(model(states, padding), expected)
    model.train()
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(model(states, padding))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2], atol=1e-3)
    assert all(0.2 < share < 0.4 for share in attachment.shares().values())
    outputs[0].sum().backward()
    attachment.detach()
    torch.testing.assert_close(model(states, padding), expected)
    assert not model._forward_hooks


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_torchs_multi_head_attention(need_weights, batch_first):
    """Held against the specification, with keep masks that are forced."""
    torch.manual_seed(0)
    module = nn.MultiheadAttention(16, 2, batch_first=batch_first).train()
    states = torch.randn(3, 7, 16)
    site = make_site(Drop("attention_logits", "column", 0.5))
    keep = torch.ones(3, 2, 7, dtype=torch.bool)
    keep[:, 0, 2] = keep[1, 1, 5] = False

    def draw(drop, allowed, keys, protect_first):
        return keep.view(*allowed.shape[:2], 1, -1)

    site.draw = draw
    intercept(module, site)
    given = states if batch_first else states.transpose(0, 1)
    output, _ = module(given, given, given, need_weights=need_weights)
    output = output if batch_first else output.transpose(0, 1)
    query, key, value = (
        part.view(3, 7, 2, 8).transpose(1, 2)
        for part in F.linear(states, module.in_proj_weight, module.in_proj_bias).chunk(3, -1)
    )
    expected = reference.attention(
        query, key, value, allowed=torch.ones(1, 1, 1, 1, dtype=torch.bool), scaling=8**-0.5,
        logits_keep=keep.unsqueeze(-2),
    )  # fmt: skip
    expected = module.out_proj(expected.transpose(1, 2).flatten(2))
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)


def test_torchs_decoder_has_self_and_cross_attention():
    layer = nn.TransformerDecoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    model = nn.TransformerDecoder(layer, 2)
    drops = hiddenkey.method("dropkey", rate=0.4).drops
    memory, target = torch.randn(2, 9, 32), torch.randn(2, 5, 32)
    for kinds, names in (
        (("self",), ["self_attn"]),
        (("cross",), ["multihead_attn"]),
        (("self", "cross"), ["self_attn", "multihead_attn"]),
    ):
        with hiddenkey.attach(model, DropoutConfig(drops, attention=kinds)) as attachment:
            assert [s.name for s in attachment.sites] == [
                f"layers.{n}.{name}" for n in range(2) for name in names
            ]
            model(target, memory)
            assert all(share > 0.1 for share in attachment.shares().values())


class Failing(BySoftmax):
    def forward(self, query, key, value, allowed, masked):
        super().forward(query, key, value, allowed, masked)
        raise ValueError("as it happens")


def test_nothing_stays_on_after_an_exception():
    module = Failing(SOFTMAXES["method"]).train()
    intercept(module, make_site(DROPS[0]))
    with pytest.raises(ValueError, match="as it happens"):
        module(*tensors(), allowed_keys(False, "none"), -1e30)
    assert _get_current_function_mode_stack() == []


def test_an_interrupt_leaves_nothing_at_work():
    """A notebook's stop button: no hook runs, and the mode must not act on anything else."""

    class Stopped(BySoftmax):
        def forward(self, query, key, value, allowed, masked):
            super().forward(query, key, value, allowed, masked)
            raise KeyboardInterrupt

    module, logits = Stopped(SOFTMAXES["method"]).train(), torch.randn(2, 3, 9, 9)
    plain = logits.softmax(-1)
    intercept(module, make_site(Drop("attention_logits", "column", 0.9)))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            module(*tensors(), allowed_keys(False, "none"), -1e30)
        assert torch.equal(logits.softmax(-1), plain)
        assert len(_get_current_function_mode_stack()) == 1
    remove_interrupted()
    assert _get_current_function_mode_stack() == []


@pytest.mark.parametrize("masked", [-1e9, -1e4])
def test_a_float_mask_of_ones_own_hides_in_every_pattern(masked):
    """No query may live on padding or later tokens when all it sees would fall."""
    allowed, (query, key, value) = allowed_keys(True, "left"), tensors()
    bias = torch.zeros(allowed.shape, dtype=torch.float64).masked_fill(~allowed, masked)
    site = make_site(Drop("attention_logits", "element", 0.9), keep_first=False)
    later = value.detach().clone()
    later[:, :, -1] += 100.0
    with Interception(site, nn.Identity()):
        torch.manual_seed(1)
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        torch.manual_seed(1)
        other = F.scaled_dot_product_attention(query, key, later, attn_mask=bias)
    torch.testing.assert_close(output[:, :, :-1], other[:, :, :-1])


def test_one_query_with_an_order_sees_the_first_key():
    query, key, value = tensors()
    plain = F.scaled_dot_product_attention(query[:, :, :1], key, value, is_causal=True)
    with Interception(make_site(Drop("attention_logits", "column", 1e-12)), nn.Identity()):
        found = F.scaled_dot_product_attention(query[:, :, :1], key, value, is_causal=True)
    torch.testing.assert_close(found, plain)


def test_attention_that_cannot_be_seen_is_refused():
    class Written(nn.Module):
        """Attends without a softmax that anybody could see."""

        def forward(self, logits):
            weights = logits.exp()
            return weights / weights.sum(-1, keepdim=True)

    module = Written().train()
    intercept(module, make_site(DROPS[0]))
    with pytest.raises(AttachError, match=r"^Written ran without a softmax over keys that could"):
        module(torch.randn(2, 3, 4, 4))
    module.eval()(torch.randn(2, 3, 4, 4))


def test_more_axes_than_an_attention_map_are_refused():
    """Blocks of a local attention, in which a key has another column for each block."""
    with (
        Interception(make_site(DROPS[0]), nn.Identity()),
        pytest.raises(AttachError, match=r"softmax over \[2, 3, 4, 5, 15\], whose last axis is no"),
    ):
        torch.randn(2, 3, 4, 5, 15).softmax(-1)


def test_share_heads_needs_to_see_heads():
    site = make_site(DROPS[0], share_heads=True)
    with (
        Interception(site, nn.Identity()),
        pytest.raises(AttachError, match="folds its heads into another axis, so share_heads"),
    ):
        torch.randn(8, 5, 5).softmax(-1)
    with Interception(site, nn.Identity()):
        fallen = torch.randn(2, 4, 5, 5).softmax(-1) == 0
    assert torch.equal(fallen, fallen[:, :1].expand_as(fallen))


def test_both_positions_at_once():
    drops = (Drop("attention_logits", "column", 0.3), Drop("attention_weights", "column", 0.3))
    site = make_site(*drops)
    with Interception(site, nn.Identity()):
        weights = torch.randn(40, 2, 9, 9).softmax(-1)
    torch.testing.assert_close(weights.sum(-1), torch.ones(40, 2, 9))
    assert (weights == 0).float().mean() == pytest.approx(0.51, abs=0.05)
    for counter in site.counters.values():
        assert counter.read() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", ["dropkey", "dropkey-element", "dropattention", "dropkey-span"])
@pytest.mark.parametrize("family", FAMILIES)
def test_whole_models_train_alike_on_both_paths(family, name, padding, attention, monkeypatch):
    """Equal draws, equal losses, equal gradients; every model also has the interface to compare."""
    inputs, results = batch(padding=padding), []
    for intercepted in (False, True):
        model = plain_model(family, attention=attention)
        if intercepted:
            monkeypatch.setattr(dispatch, "needs_interception", lambda module: True)
        attachment = hiddenkey.attach(model, hiddenkey.method(name, rate=0.3), kernel="reference")
        assert {site.kernel for site in attachment.sites} == {
            "intercepted" if intercepted else "reference"
        }
        torch.manual_seed(7)
        results.append(step(model, inputs))
    (plain, gradients), (loss, found) = results
    assert loss == pytest.approx(plain, rel=1e-4)
    assert_same_gradients(found, gradients)


CAPPED = {
    "gemma2": {},
    "gpt_oss": {"num_local_experts": 2, "num_experts_per_tok": 1},
}


@pytest.mark.parametrize("kind", CAPPED)
def test_soft_caps_and_sinks_are_those_of_the_model(kind):
    """At a rate that drops nothing the model is its own; at another one keys fall."""
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    sizes |= {"intermediate_size": 64, "attention_dropout": 0.0, **CAPPED[kind]}
    with seeded(0):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(kind, **sizes), attn_implementation="eager"
        ).train()
    inputs = batch("causal", "right")
    expected = step(model, inputs)
    attachment = hiddenkey.attach(model, hiddenkey.method("dropkey", rate=1e-12))
    assert {site.kernel for site in attachment.sites} == {"intercepted"}
    loss, gradients = step(model, inputs)
    assert loss == pytest.approx(expected[0], rel=1e-5)
    assert_same_gradients(gradients, expected[1])
    attachment = hiddenkey.attach(model, hiddenkey.method("dropkey", rate=0.4))
    assert step(model, inputs)[0] != pytest.approx(expected[0], rel=1e-5)
    assert all(0.2 < share < 0.5 for share in attachment.shares().values())


def with_distances(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """A function of one's own: logits fall with the distance."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    places = torch.arange(key.shape[2])
    bias = -0.5 * (places - places[: query.shape[2], None]).abs().to(query)
    allowed = (
        torch.ones(len(places), len(places)).tril() if attention_mask is None else attention_mask
    )
    mask = bias.masked_fill(~allowed.bool(), torch.finfo(query.dtype).min)
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return output.transpose(1, 2).contiguous(), None


@pytest.mark.parametrize("name", ["dropkey", "dropattention"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_function_in_the_place_of_transformers_own(name, when, monkeypatch):
    """It runs in training too, before attach and after, and its keys fall."""
    model, inputs = plain_model("llama", dropout=0.0), batch()
    theirs = hiddenkey.attach(model, hiddenkey.method(name, rate=1e-9))
    run(model, inputs)
    if when == "before":
        theirs.detach()
    with monkeypatch.context() as patch:
        patch.setitem(AttentionInterface._global_mapping, "sdpa", with_distances)
        if when == "before":
            theirs = hiddenkey.attach(model, hiddenkey.method(name, rate=1e-9))
        noisy = run(model, inputs).logits
        theirs.set_rates({theirs.sites[0].position: 0.5})
        theirs.shares()
        run(model, inputs)
        assert all(0.1 < share < 0.9 for share in theirs.shares().values())
        theirs.detach()
        torch.testing.assert_close(noisy, run(model, inputs).logits, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(noisy, run(model, inputs).logits, atol=1e-3)
