"""Layers that come after attach have no noise, and a part kept in evaluation mode draws none."""

import copy
import logging

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    checkpoint_wrapper,
)

import hiddenkey
from hiddenkey import AttachError
from models import LAYER_STACK, batch, plain_model, step

NOISE = hiddenkey.method("hiddenkey-minus", rate=0.3)
FAMILIES = [("llama", "causal"), ("bert", "classification")]
ADDED = "holds a .* that was put there after attach, so it has no noise"


def stack(model, family):
    return model.get_submodule(LAYER_STACK[family])


def put_in(model, family, layer, place):
    stack(model, family).insert(place, layer)
    model.config.num_hidden_layers = len(stack(model, family))
    model.config.use_cache = False  # whose places are those that the layers were made for


@pytest.mark.parametrize(("family", "task"), FAMILIES)
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("copied", [False, True])
def test_a_layer_that_was_put_in_is_refused_until_attached_again(family, task, place, copied):
    model, inputs = plain_model(family, task), batch(task)
    attachment = hiddenkey.attach(model, NOISE)
    step(model, inputs)
    other = model if copied else plain_model(family, task, seed=1)
    put_in(model, family, copy.deepcopy(stack(other, family)[1]), place)
    with pytest.raises(AttachError, match=ADDED if place == 2 else f"{ADDED}|was replaced"):
        model(**inputs)
    attachment.detach()
    attachment = hiddenkey.attach(model, NOISE)
    assert {site.layer for site in attachment.sites} == {0, 1, 2}
    if not copied:
        step(model, inputs)
        assert min(attachment.shares().values()) > 0


def test_evaluation_and_what_is_put_around_a_layer_go_on():
    model, inputs = plain_model("bert"), batch()
    hiddenkey.attach(model, NOISE)
    layers = stack(model, "bert")
    expected, _ = step(model, inputs)
    put_in(model, "bert", copy.deepcopy(layers[0]), 2)
    model.eval()(**inputs)
    del layers[2]
    model.config.num_hidden_layers = 2
    assert step(model.train(), inputs)[0] == expected
    layers[0] = checkpoint_wrapper(layers[0], checkpoint_impl=CheckpointImpl.NO_REENTRANT)
    assert step(model, inputs)[0] == pytest.approx(expected, rel=1e-6)


class Frozen(nn.Module):
    """Leaves its encoder in evaluation mode, whatever it is told."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(3, 2)

    def train(self, mode=True):
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, **inputs):
        return self.head(self.encoder(**inputs).logits)


def test_a_part_that_is_kept_in_evaluation_mode_is_told_once(caplog):
    model = Frozen(plain_model("bert")).train()
    inputs = {name: value for name, value in batch().items() if name != "labels"}
    attachment = hiddenkey.attach(model, NOISE)
    with caplog.at_level(logging.WARNING, "hiddenkey"):
        outputs = [model(**inputs) for _ in range(2)]
    assert torch.equal(*outputs)
    told = [record.message for record in caplog.records if "in evaluation mode" in record.message]
    assert len(told) == 1
    assert "so nothing is dropped" in told[0]
    model.encoder.train()
    assert not torch.equal(model(**inputs), outputs[0])
    assert min(attachment.shares().values()) > 0


def test_a_part_of_the_layers_in_evaluation_mode_is_the_users(caplog):
    model = plain_model("bert")
    hiddenkey.attach(model, NOISE)
    stack(model, "bert")[0].eval()
    with caplog.at_level(logging.WARNING, "hiddenkey"):
        model(**batch())
    assert not any("in evaluation mode" in record.message for record in caplog.records)


@pytest.mark.parametrize(("family", "task"), FAMILIES)
def test_a_list_of_layers_that_takes_the_place_of_the_first_is_looked_at(family, task):
    model, inputs = plain_model(family, task), batch(task)
    hiddenkey.attach(model, NOISE)
    step(model, inputs)
    name = LAYER_STACK[family]
    holder, _, attribute = name.rpartition(".")
    layers = [*stack(model, family)]
    setattr(model.get_submodule(holder), attribute, nn.ModuleList(layers))
    step(model, inputs)
    layers.append(copy.deepcopy(stack(plain_model(family, task, seed=1), family)[1]))
    setattr(model.get_submodule(holder), attribute, nn.ModuleList(layers))
    with pytest.raises(AttachError, match=ADDED):
        model(**inputs)
