"""The spy sees attention wherever it is computed, and nothing else for attention."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hiddenkey.anatomy import Gap
from hiddenkey.framework.site import Site
from hiddenkey.testing.coverage import Coverage
from hiddenkey.testing.findings import CheckError
from hiddenkey.testing.spy import Spy

WIDTH, HEADS, TOKENS = 8, 2, 5


def softmax(logits: torch.Tensor) -> torch.Tensor:
    return torch.softmax(logits, dim=-1)


with warnings.catch_warnings():
    # scripting is on its way out, and still what some models of transformers do
    warnings.simplefilter("ignore", DeprecationWarning)
    scripted_softmax = torch.jit.script(softmax)


class Attention(nn.Module):
    """Self-attention that takes its softmax from ``weigh``."""

    def __init__(self, weigh):
        super().__init__()
        self.weigh = weigh

    def forward(self, states):
        heads = states.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        return self.weigh(heads).transpose(1, 2).flatten(2)


KINDS = {
    "softmax": lambda x: (x @ x.mT).softmax(-1) @ x,
    "F.softmax": lambda x: F.softmax(x @ x.mT, -1) @ x,
    "scripted": lambda x: scripted_softmax(x @ x.mT) @ x,
    "sdpa": lambda x: F.scaled_dot_product_attention(x, x, x),
    "sdpa with a mask": lambda x: F.scaled_dot_product_attention(
        x, x, x, torch.ones(TOKENS, TOKENS, dtype=torch.bool)
    ),
    "one head": lambda x: ((x[:, 0] @ x[:, 0].mT).softmax(-1) @ x[:, 0]).unsqueeze(1).expand_as(x),
}


def watch(model, *inputs):
    with Spy(model) as spy:
        model(*inputs)
    return spy


def states():
    return torch.randn(3, TOKENS, WIDTH)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_seen_with_its_module(kind):
    model = nn.ModuleDict({"mixer": Attention(KINDS[kind])})
    model.forward = lambda x: model["mixer"](x)
    (operation,) = watch(model, states()).attention
    assert operation.modules == ("", "mixer")
    assert operation.shape[-2:] == (TOKENS, TOKENS)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_inner_calls_of_pytorchs_own_attention_are_seen(weights, training):
    model = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).train(training)
    x = states()
    with torch.set_grad_enabled(training), Spy(model) as spy:
        model(x, x, x, need_weights=weights)
    assert len(spy.attention) == 1
    assert spy.attention[0].module == ""


@pytest.mark.parametrize("training", [True, False])
def test_pytorchs_own_layers_are_seen(training):
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    with torch.set_grad_enabled(training):
        seen = watch(model, states())
    assert [operation.modules[1] for operation in seen.attention] == ["layers.0", "layers.1"]


class Router(nn.Module):
    def forward(self, x):
        return x.softmax(-1)


def test_a_softmax_that_is_no_attention_map_is_not_counted():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = SimpleNamespace(num_experts=WIDTH, vocab_size=99)
            self.router = Router()
            self.mixer = nn.Identity()

        def forward(self, x):
            self.router(x @ x.mT)  # by its class, though it has the shape of an attention map
            x.softmax(-1)  # as many choices as experts
            x.new_ones(3, TOKENS, 99).softmax(-1)  # over words
            x.softmax(1)  # not over the last axis
            x[:, 0].softmax(-1)  # two axes
            x.new_ones(3, TOKENS, 4, 4).softmax(-1)  # four streams of each token
            return F.log_softmax(x, -1)

    with Spy(model := Model(), (3, TOKENS)) as spy:
        model(states())
    assert spy.attention == []


def test_random_numbers_are_seen_with_their_module():
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5))
    seen = watch(model, states())
    assert {operation.module for operation in seen.random} == {"1"}
    assert watch(nn.Sequential(nn.Dropout(0.0)), states()).random == []


def test_a_router_may_draw_to_choose_its_experts():
    class NoisyRouter(nn.Module):
        def forward(self, x):
            return torch.rand_like(x)

    seen = watch(NoisyRouter(), states())
    assert seen.random == []
    assert [operation.name for operation in seen.routing] == ["rand_like"]


def test_the_softmax_of_an_adapter_is_its_own():
    model = Attention(KINDS["softmax"])
    assert watch(model, states()).attention
    own = type("Attention", (Attention,), {"__module__": "peft.tuners.some.layer"})
    assert watch(own(KINDS["softmax"]), states()).attention == []


def test_dropout_inside_pytorchs_kernel_is_seen():
    model = Attention(lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5))
    assert watch(model, states()).random
    model = Attention(lambda x: F.scaled_dot_product_attention(x, x, x))
    assert watch(model, states()).random == []


def test_the_spy_leaves_no_hooks():
    hooks = nn.modules.module._global_forward_hooks
    before = len(hooks)
    with pytest.raises(AttributeError):
        watch(Attention(lambda x: x.missing), states())
    assert len(hooks) == before
    assert not nn.modules.module._global_forward_pre_hooks


class Layers(nn.Module):
    """Layers with attention, one without, in a module list."""

    def __init__(self):
        super().__init__()
        kinds = [KINDS["softmax"], KINDS["sdpa"], None]
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {"mixer": Attention(k) if k else nn.Identity(), "down": nn.Linear(WIDTH, WIDTH)}
            )
            for k in kinds
        )
        for layer in self.layers:
            layer.forward = lambda x, layer=layer: layer["down"](layer["mixer"](x))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def site(layer, position, module):
    return Site(f"layers.{layer}.{module}", layer, position, "element", 0.1, "none", "hook")


LOGITS = [site(layer, "attention_logits", "mixer") for layer in (0, 1)]
HIDDEN = [site(layer, "hidden", "down") for layer in (0, 1, 2)]
NO_ATTENTION = Gap(2, "layers.2", "attention_logits", "it has no softmax attention")


def check(sites, gaps):
    model = Layers()
    return Coverage(model, sites, gaps, watch(model, states())).check()


def test_full_coverage_with_a_named_gap_passes():
    reach = check([*LOGITS, *HIDDEN], [NO_ATTENTION])
    assert reach == "attention_logits 2 of 3 layers (1 gaps); hidden 3 of 3 layers"


def test_attention_outside_the_layers_may_be_named():
    model = nn.Sequential(Attention(KINDS["sdpa"]), Layers())
    seen = watch(model, states())
    sites = [replace(site, name=f"1.{site.name}") for site in LOGITS]
    gaps = [replace(NO_ATTENTION, name="1.layers.2")]
    with pytest.raises(CheckError, match=r"^0 computes .* outside every site"):
        Coverage(model, sites, gaps, seen).check()
    outside = Gap(None, "0", "attention_logits", "attention outside the layers")
    assert "2 of" in Coverage(model, sites, [*gaps, outside], seen).check()


@pytest.mark.parametrize(
    ("sites", "gaps", "detail"),
    [
        ([*LOGITS, *HIDDEN], [], "layers.2 has neither a site nor a gap of attention_logits"),
        (
            [LOGITS[0], *HIDDEN],
            [NO_ATTENTION],
            r"layers.1.mixer computes .* outside every site of attention_logits",
        ),
        (
            [LOGITS[0], *HIDDEN],
            [NO_ATTENTION, Gap(1, "layers.1", "attention_logits", "a lie")],
            "layers.1.mixer computes .*, which the gap denies: a lie",
        ),
        (
            [*LOGITS, *HIDDEN],
            [NO_ATTENTION, Gap(None, "layers.1.mixer", "attention_logits", "outside")],
            "layers.1.mixer is a site and a gap of attention_logits",
        ),
        (
            [*LOGITS, *HIDDEN[1:]],
            [NO_ATTENTION],
            "layers.0 has neither a site nor a gap of hidden; layers.0.down is no site of hidden",
        ),
        (
            [*LOGITS, *HIDDEN[1:], site(0, "hidden", "mixer")],
            [NO_ATTENTION],
            "layers.0.down is no site of hidden, though other modules of its role are",
        ),
    ],
)
def test_what_is_served_in_part_is_named(sites, gaps, detail):
    with pytest.raises(CheckError, match=detail):
        check(sites, gaps)


class SplitLayers(nn.Module):
    """Layers whose parts lie in lists of their own, as in XLM, behind a stem of convolutions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.ModuleList([nn.Conv1d(TOKENS, TOKENS, 1)])
        self.mixers = nn.ModuleList(Attention(KINDS["sdpa"]) for _ in range(2))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
            for _ in range(2)
        )
        for layer in self.mixers:
            layer.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        x = self.stem[0](x)
        for mixer, block in zip(self.mixers, self.blocks, strict=True):
            x = block(mixer(x))
        return x


def test_layers_in_several_lists_and_blocks_with_two_dense_layers():
    model = SplitLayers()
    seen = watch(model, states())
    sites = [replace(site(i, "attention_logits", ""), name=f"mixers.{i}") for i in (0, 1)]
    sites += [replace(site(i, "hidden", ""), name=f"blocks.{i}.2") for i in (0, 1)]
    reach = Coverage(model, sites, (), seen).check()
    assert reach == "attention_logits 2 of 2 layers; hidden 2 of 2 layers"
    with pytest.raises(CheckError, match=r"blocks.1.2 is no site of hidden"):
        Coverage(model, sites[:-1], (), seen).check()
