"""Layers below the first noisy one run once for both passes, and nothing else changes."""

import dataclasses
import math

import pytest
import torch

import hiddenkey
from hiddenkey import Consistency, ConsistencyError
from hiddenkey.step.shared_layers import SharedLayers
from models import (
    CACHE,
    FAMILIES,
    FAMILY_TASKS,
    LAYER_STACK,
    assert_same_gradients,
    batch,
    lora_model,
    step,
    transformer_in,
)

LAYERS, LOWER = 5, 3
TOP = dataclasses.replace(hiddenkey.method("hiddenkey", rate=0.4), layers=(3, 4))


def top(kind="kl", **settings):
    return dataclasses.replace(TOP, consistency=Consistency(kind, **settings))


def made(family, task="classification", **more):
    return lora_model(family, task, layers=LAYERS, **more)


def stack(family, model):
    return transformer_in(model).get_submodule(LAYER_STACK[family])


def computed(family, model):
    """Count how often each layer's own code runs: its first normalisation."""
    counts = [0] * LAYERS

    def counter(index):
        def count(module, args, output):
            counts[index] += 1

        return count

    for index, layer in enumerate(stack(family, model)):
        norm = next(m for m in layer.modules() if "norm" in type(m).__name__.lower())
        norm.register_forward_hook(counter(index))
    return counts


SETTINGS = {
    "one branch": top(),
    "both branches": top(backward="both"),
    "half of the sequences": top(fraction=0.5),
    "both branches of half": top(fraction=0.5, backward="both"),
    "js": top("js"),
    "attention alone": dataclasses.replace(TOP, drops=TOP.drops[:1]),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("family", "task"), FAMILY_TASKS)
def test_loss_and_gradients_are_those_of_two_whole_passes(monkeypatch, family, task, setting):
    inputs = batch(task)
    model = made(family, task)
    hiddenkey.attach(model, SETTINGS[setting])
    shared, shared_gradients = step(model, inputs)
    monkeypatch.setattr(SharedLayers, "_fits", lambda self, arguments: False)
    whole, whole_gradients = step(model, inputs)
    assert shared == pytest.approx(whole, rel=1e-6)
    assert_same_gradients(shared_gradients, whole_gradients)


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_layers_compute_once(family):
    model = made(family)
    hiddenkey.attach(model, TOP)
    step(model, batch())  # the first one also looks whether sharing changes anything
    counts = computed(family, model)
    step(model, batch())
    assert counts == [1] * LOWER + [2] * (LAYERS - LOWER)


@pytest.mark.parametrize("missing", [False, True])
def test_layers_are_not_shared_where_later_ones_read_more_than_their_output(missing):
    """What the second layer leaves for the fourth in each pass, as layers that share keys do."""
    model = made("bert")
    layers, left = stack("bert", model), {}

    def begin(module, args):
        left.clear()
        if not missing:
            left["states"] = 0.0

    def leave(module, args, output):
        left["states"] = output.mean()

    def read(module, args):
        return (args[0] + left["states"], *args[1:])

    layers[0].register_forward_pre_hook(begin)
    layers[1].intermediate.register_forward_hook(leave)
    layers[3].register_forward_pre_hook(read)
    attachment = hiddenkey.attach(model, TOP)
    assert "shared" in str(attachment)
    loss, found = step(model, batch())
    assert "shared" not in str(attachment)
    assert sum(attachment.losses.values()) == pytest.approx(loss)
    assert found


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_and_evaluation_are_as_before_after_a_step(family):
    model = made(family).eval()
    inputs = batch()
    plain = model(**inputs).logits
    hiddenkey.attach(model, TOP)
    step(model.train(), inputs)
    assert all("forward" not in layer.__dict__ for layer in stack(family, model))
    assert model.eval()(**inputs).logits.equal(plain)


def test_a_forward_that_somebody_else_put_there_is_put_back():
    model = made("bert")
    layer = stack("bert", model)[0]
    theirs = layer.forward
    layer.forward = theirs
    hiddenkey.attach(model, TOP)
    step(model, batch())
    assert layer.__dict__["forward"] is theirs


@pytest.mark.parametrize("fault", ["no labels", "an error above"])
def test_a_failed_pass_leaves_the_layers_as_they_were(monkeypatch, fault):
    model = made("bert")
    inputs = batch()
    hiddenkey.attach(model, TOP)
    if fault == "no labels":
        del inputs["labels"]
        with pytest.raises(ConsistencyError, match="got no labels"):
            model(**inputs)
    else:
        monkeypatch.setattr(stack("bert", model)[4], "forward", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(**inputs)
    assert all("forward" not in layer.__dict__ for layer in stack("bert", model)[:LOWER])


def test_an_incomplete_cache_is_not_handed_out():
    model = made("llama", "causal")
    inputs = batch("causal")
    assert getattr(model.train()(**inputs, use_cache=True), CACHE) is not None
    hiddenkey.attach(model, TOP)
    assert getattr(model(**inputs, use_cache=True), CACHE) is None


def noisy_below(model):
    model.get_submodule("base_model.model.bert.embeddings.dropout").p = 0.3


REASONS = {
    "dropout on LoRA's input": ({"lora_dropout": 0.3}, {}, TOP, None),
    "hidden states asked for": ({}, {"output_hidden_states": True}, TOP, None),
    "attention maps asked for": ({"attention": "eager"}, {"output_attentions": True}, TOP, None),
    "the model's own dropout": ({}, {}, dataclasses.replace(TOP, keep_model_dropout=True), None),
    "dropout switched on again": ({}, {}, TOP, noisy_below),
    "noise in the first layer": ({}, {}, dataclasses.replace(TOP, layers=(0, 4)), None),
}


@pytest.mark.parametrize("reason", REASONS)
def test_layers_that_cannot_be_shared_run_twice(reason):
    how, arguments, config, change = REASONS[reason]
    model = made("bert", **how)
    counts = computed("bert", model)
    hiddenkey.attach(model, config)
    if change:
        change(model)
    step(model, {**batch(), **arguments})
    assert counts == [2] * LAYERS


def test_checkpointed_layers_run_in_full():
    inputs = batch()
    model = made("bert")
    hiddenkey.attach(model, TOP)
    loss, gradients = step(model, inputs)
    model.activation_checkpointing_enable({"use_reentrant": False})
    again, same = step(model, inputs)
    assert again == pytest.approx(loss, rel=1e-6)
    assert_same_gradients(gradients, same)


def test_the_summary_says_how_many_layers_are_shared():
    model = made("bert")
    assert "lower 3 layers shared" in str(hiddenkey.attach(model, TOP))
    assert "shared" not in str(hiddenkey.attach(model, "hiddenkey"))


def test_sharing_draws_no_random_number():
    model = made("bert")
    inputs = batch()
    hiddenkey.attach(model, TOP)
    torch.manual_seed(3)
    step(model, inputs)
    state = torch.get_rng_state()
    model.config.output_hidden_states = True  # not shared
    step(model, inputs)
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("layer", range(LAYERS))
def test_an_interrupted_pass_leaves_the_model_whole(interrupt, layer, tmp_path):
    """PyTorch runs no hook for exceptions that are no ``Exception``."""
    model, inputs = made("bert"), batch()
    attachment = hiddenkey.attach(model, TOP)
    step(model, inputs)
    forwards = [module.__dict__.get("forward") for module in stack("bert", model)]
    plain = model.eval()(**inputs).logits
    part = stack("bert", model)[layer]
    calls = []

    def stop(module, args):
        calls.append(module)
        if len(calls) == 1:
            raise interrupt

    handle = part.register_forward_pre_hook(stop)
    with pytest.raises(interrupt):
        model.train()(**inputs)
    handle.remove()
    expected = model.eval()(**inputs).logits  # an evaluation after it
    assert expected.equal(plain)
    assert [module.__dict__.get("forward") for module in stack("bert", model)] == forwards
    torch.save(model.state_dict(), tmp_path / "model.pt")
    assert math.isfinite(step(model.train(), inputs)[0])
    calls.clear()
    part.register_forward_pre_hook(stop)
    with pytest.raises(interrupt):
        model(**inputs)
    attachment.detach()
    assert [module.__dict__.get("forward") for module in stack("bert", model)] == forwards
