"""One attention map that a module asks for several times has one draw, for each call."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import DiffLlamaConfig, DiffLlamaForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import hiddenkey
from hiddenkey import Drop, DropoutConfig
from hiddenkey.anatomy.code import calls_twice
from hiddenkey.attention import keys, site
from hiddenkey.testing import examine_model
from models import batch, run, seeded

RATE = 0.4
SIZES = {"vocab_size": 60, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
SIZES |= {"num_hidden_layers": 2, "num_key_value_heads": 2, "pad_token_id": 0}
DROPS = [
    Drop("attention_logits", "column", RATE),
    Drop("attention_logits", "span", RATE),
    Drop("attention_logits", "element", RATE),
    Drop("attention_weights", "column", RATE),
    Drop("attention_weights", "element", RATE),
]
INPUTS = batch("causal", "left")


def differential(attention="sdpa"):
    with seeded(0):
        config = DiffLlamaConfig(**SIZES, initializer_range=0.2, attn_implementation=attention)
        return DiffLlamaForCausalLM(config).train()


class Halves(nn.Module):
    """Attends to two halves of the values by the same map, and to a third by another."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(16, 16)

    def forward(self, states):
        query = self.mix(states).unflatten(-1, (2, 8)).transpose(1, 2)
        key = states.unflatten(-1, (2, 8)).transpose(1, 2)
        one, other = (
            F.scaled_dot_product_attention(query, key, value) for value in key.chunk(2, -1)
        )
        apart = F.scaled_dot_product_attention(query, key.clone(), key)
        return one, other, apart


@pytest.fixture
def drawn(monkeypatch):
    """The keep masks that were drawn, in order."""
    masks = []

    def spied(draw):
        def spy(*args, **kwargs):
            masks.append(draw(*args, **kwargs))
            return masks[-1]

        return spy

    monkeypatch.setattr(site, "draw_keys", spied(keys.draw_keys))
    monkeypatch.setattr(site, "draw_entries", spied(keys.draw_entries))
    return masks


@pytest.mark.parametrize("drop", DROPS, ids=lambda drop: f"{drop.position}-{drop.pattern}")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_differential_attention_draws_once_for_each_layer_and_call(drop, attention, drawn):
    model = differential(attention)
    attachment = hiddenkey.attach(model, DropoutConfig((drop,)))
    run(model, INPUTS)
    assert len(drawn) == 2
    assert not torch.equal(*drawn)
    run(model, INPUTS, seed=1)
    assert len(drawn) == 4
    assert not torch.equal(drawn[0], drawn[2])
    dropped = sum(mask.numel() - mask.sum() for mask in drawn[::2])
    assert attachment.shares()[f"{drop.position}/0"] > 0 < dropped


@pytest.mark.parametrize("drop", DROPS, ids=lambda drop: f"{drop.position}-{drop.pattern}")
def test_both_halves_of_the_values_are_mixed_by_one_map(drop):
    """Where all values are equal, so are the halves: a map of each would tell them apart."""
    model = differential()
    attention = model.model.layers[0].self_attn
    hiddenkey.attach(model, DropoutConfig((drop,)))
    halves = []
    plain = site.AttentionSite.attend

    def spy(self, query, key, value, *args, **kwargs):
        output = plain(self, query, key, torch.ones_like(value).cumsum(2), *args, **kwargs)
        halves.append(output)
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site.AttentionSite, "attend", spy)
        run(model, INPUTS)
    assert len(halves) == 4
    assert torch.equal(halves[0], halves[1])
    assert not torch.equal(halves[0], halves[2])
    assert attention.config is not model.config


def test_code_of_ones_own_that_asks_twice():
    model = nn.Sequential(Halves())
    config = DropoutConfig((Drop("attention_logits", "column", 0.5),))
    hiddenkey.attach(model, config)
    states = torch.ones(1, 12, 16).cumsum(1)
    with seeded(0):
        one, other, apart = model(states)
    assert torch.equal(one, other)
    assert not torch.allclose(one, apart[..., :4])


def test_the_conformance_checks_and_detaching():
    model = differential()
    report = examine_model(model, INPUTS, hiddenkey.method("hiddenkey", rate=0.3))
    assert report.passed, report
    assert not any(module._forward_hooks for module in model.modules())


def test_a_compiled_model_draws_once_too():
    model, draws = differential(), []
    hiddenkey.attach(model, DropoutConfig((DROPS[0],)))

    def count(graph, inputs):
        draws.extend(node for node in graph.graph.nodes if node.target is torch.rand)
        return graph

    torch.compile(model, backend=count)(**INPUTS).loss.backward()
    assert len(draws) == 2


@pytest.mark.skipif(
    not hasattr(ALL_ATTENTION_FUNCTIONS, "get_interface"), reason="before transformers 5"
)
def test_who_calls_twice():
    layer = differential().model.layers[0]
    assert calls_twice(layer.self_attn, "get_interface")
    with seeded(0):
        other = LlamaForCausalLM(LlamaConfig(**SIZES)).model.layers[0]
    assert not calls_twice(other.self_attn, "get_interface")
    assert not calls_twice(nn.Identity(), "get_interface")
