"""Layers of a network of one's own, however it keeps them: in lists, dictionaries, attributes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hiddenkey
from hiddenkey import AttachError, Drop, DropoutConfig, anatomy
from models import seeded

WIDTH = 16
HIDDEN = DropoutConfig((Drop("hidden", "column", 0.4),))
INPUT = DropoutConfig((Drop("input", "column", 0.4),))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, states):
        heads = self.mix(states).unflatten(-1, (3, 2, -1)).movedim(-3, 0).transpose(-2, -3)
        return self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


def feed_forward():
    return nn.Sequential(nn.Linear(WIDTH, 24), nn.GELU(), nn.Linear(24, WIDTH))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.mlp = Attention(), feed_forward()

    def forward(self, states):
        states = states + self.attention(states)
        return states + self.mlp(states)


class Network(nn.Module):
    """Runs what ``order`` gives, one after the other, with residuals where it is no block."""

    def __init__(self, order, **children):
        super().__init__()
        self.embed = nn.Embedding(60, WIDTH)
        for name, child in children.items():
            setattr(self, name, child)
        self.order = order

    def forward(self, input_ids):
        states = self.embed(input_ids)
        for module in self.order(self):
            states = module(states) if isinstance(module, Block) else states + module(states)
        return states


def in_a_dictionary():
    blocks = nn.ModuleDict({"first": Block(), "second": Block(), "third": Block()})
    return Network(lambda self: self.blocks.values(), blocks=blocks)


def as_attributes():
    return Network(lambda self: (self.one, self.two), one=Block(), two=Block())


def two_attentions_in_a_list():
    """As a decoder in lists of lists: both attentions are of one class."""
    parts = [nn.ModuleList([Attention(), Attention(), feed_forward()]) for _ in range(2)]
    order = lambda self: (module for layer in self.layers for module in layer)  # noqa: E731
    return Network(order, layers=nn.ModuleList(parts))


def dictionaries_in_a_list():
    parts = [nn.ModuleDict({"attention": Attention(), "ff": feed_forward()}) for _ in range(3)]
    order = lambda self: (module for layer in self.layers for module in layer.values())  # noqa: E731
    return Network(order, layers=nn.ModuleList(parts))


CASES = [
    (in_a_dictionary, ["blocks.first", "blocks.second", "blocks.third"]),
    (as_attributes, ["one", "two"]),
    (two_attentions_in_a_list, ["layers.0", "layers.1"]),
    (dictionaries_in_a_list, ["layers.0", "layers.1", "layers.2"]),
]


def ids():
    return torch.randint(3, 60, (4, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("build", "names"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_each_is_a_layer(build, names):
    with seeded(0):
        model = build().train()
    assert [layer.name for layer in anatomy.find_layers(model)] == names
    noise = hiddenkey.method("hiddenkey-minus", rate=0.4)
    attachment = hiddenkey.attach(model, noise)
    model(ids())
    assert {site.layer for site in attachment.sites} == set(range(len(names)))
    assert not attachment.gaps
    assert all(0 < share < 1 for share in attachment.shares().values())
    last = DropoutConfig(HIDDEN.drops, layers=(len(names) - 1,))
    (site,) = hiddenkey.attach(model, last).sites
    assert site.name.startswith(names[-1])


def test_what_enters_the_first_of_them_drops():
    with seeded(0):
        model = as_attributes().train()
    hiddenkey.attach(model, INPUT)
    entered = []
    model.one.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    model(ids())
    (states,) = entered
    fallen = states.eq(0).all(-1)
    assert fallen.any()
    assert not fallen.all()
    assert torch.equal(states[~fallen], model.embed(ids())[~fallen])


def test_a_model_of_one_block_has_no_input_of_its_own():
    model = Network(lambda self: (self.only,), only=Block()).train()
    with pytest.raises(AttachError, match="nothing tells the layers of Network from what embeds"):
        hiddenkey.attach(model, INPUT)
    assert len(hiddenkey.attach(model, HIDDEN).sites) == 1
