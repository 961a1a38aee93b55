"""Activation checkpointing: recomputed layers see the masks, the padding and the counters of the
pass that they belong to."""

import warnings

import pytest
import torch

import hiddenkey
from hiddenkey import AttachError, Consistency, Drop, DropoutConfig
from hiddenkey.attention import fused, kernels
from models import (
    FAMILIES,
    assert_same_gradients,
    batch,
    gradients,
    lora_model,
    plain_model,
    run,
    seeded,
    step,
    transformer_in,
)

METHODS = {
    "hiddenkey": hiddenkey.method("hiddenkey", rate=0.4),
    "both-branches": DropoutConfig(
        hiddenkey.method("hiddenkey", rate=0.4).drops, Consistency(backward="both")
    ),
    "both-on-a-part": DropoutConfig(
        hiddenkey.method("hiddencut", rate=0.4).drops, Consistency(backward="both", fraction=0.5)
    ),
    "js": hiddenkey.method("hiddenkey-js", rate=0.4),
    "span-hiddencut": hiddenkey.method("hiddencut", rate=0.4),
    "elements": DropoutConfig(
        (
            Drop("attention_logits", "element", 0.3),
            Drop("attention_weights", "element", 0.3),
            Drop("hidden", "element", 0.4),
            Drop("input", "element", 0.2),
            Drop("output", "element", 0.2),
        )
    ),
    "own-dropout": DropoutConfig(keep_model_dropout=True),
}

checkpointed = pytest.mark.parametrize("reentrant", [False, True], ids=["plain", "re-entrant"])


def enable(model, reentrant: bool, **more) -> None:
    transformer = transformer_in(model)
    transformer.activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": reentrant, **more}
    )
    if reentrant:
        transformer.enable_input_require_grads()
    assert transformer.is_activation_checkpointing


@pytest.fixture(autouse=True)
def _quiet_about_reentrant_under_no_grad():
    # torch.utils.checkpoint, in the pass without gradient
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "None of the inputs have requires_grad=True")
        yield


@checkpointed
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("family", "task"),
    [
        ("bert", "classification"),
        ("roberta", "regression"),
        ("llama", "classification"),
        ("llama", "causal"),
        ("gpt2", "causal"),
    ],
)
def test_losses_and_gradients_are_those_without_checkpointing(family, task, method, reentrant):
    inputs = batch(task, "left")
    found, losses, shares = [], [], []
    for checkpointing in (False, True):
        model = lora_model(family, task, dropout=0.2, lora_dropout=0.1, feed_forward=True)
        if checkpointing:
            enable(model, reentrant)
        attachment = hiddenkey.attach(model, METHODS[method])
        total = {}
        for seed in range(2):
            loss, total = step(model, inputs, seed)
        losses.append({**attachment.losses, "whole": loss})
        found.append(total)
        shares.append(attachment.shares())
    # checkpointing switches the key cache off, whose layout rounds differently
    assert losses[0] == {name: pytest.approx(loss, rel=1e-6) for name, loss in losses[1].items()}
    assert shares[0] == shares[1]
    assert_same_gradients(*found, rtol=1e-5, atol=1e-6)


@checkpointed
@pytest.mark.parametrize("method", ["dropkey", "dropattention"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_kernel_may_be_tried_out_inside_a_checkpoint(family, method, reentrant):
    """The first pass of a process holds each kernel against the specification."""
    kernels._passes.cache_clear()
    fused._passes.cache_clear()
    model = lora_model(family)
    enable(model, reentrant)
    hiddenkey.attach(model, method)
    first, gradients = step(model, batch())
    again, same = step(model, batch())
    assert first == again
    assert_same_gradients(gradients, same, rtol=0, atol=0)


@checkpointed
def test_checkpointing_may_be_switched_on_after_attaching(reentrant):
    found = []
    for checkpointing in (False, True):
        model = lora_model("bert")
        hiddenkey.attach(model, METHODS["both-on-a-part"])
        if checkpointing:
            enable(model, reentrant)
        found.append(step(model, batch()))
    assert found[0][0] == found[1][0]
    assert_same_gradients(found[0][1], found[1][1], rtol=1e-5, atol=1e-6)


@checkpointed
def test_layers_are_recomputed_at_all(reentrant):
    """The other tests would pass if checkpointing were off."""
    model = lora_model("bert")
    enable(model, reentrant)
    attachment = hiddenkey.attach(model, "hiddenkey-minus")
    runs = []
    model.get_base_model().bert.encoder.layer[0].output.dense.register_forward_hook(
        lambda *_: runs.append(1)
    )
    step(model, batch())
    assert len(runs) == 2
    hidden = attachment.shares()["hidden/0"] * batch()["attention_mask"].sum().item() * 32
    assert hidden == pytest.approx(round(hidden), abs=1e-2)


@checkpointed
@pytest.mark.parametrize("task", ["logits", "loss", "one-loss-first", "states"])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_forwards_with_other_padding_then_one_backward(family, task, reentrant):
    """Siamese training: each pass's recomputed layers drop spans of its own visible tokens."""
    one, two = batch(padding="left"), batch(padding="right", seed=1)
    one["attention_mask"][0, :5] = 0  # rows whose visible tokens differ between the two
    found = []
    for checkpointing in (False, True):
        model = lora_model(family, feed_forward=True)
        if checkpointing:
            enable(model, reentrant)
        hiddenkey.attach(model, hiddenkey.method("hiddencut", rate=0.5))
        more = {"output_hidden_states": True} if task == "states" else {}
        with seeded(3):
            first, second = model(**one, **more), model(**two, **more)
            if task == "logits":
                loss = (first.logits - second.logits).square().mean()
            elif task == "loss":
                loss = first.loss + 2 * second.loss
            elif task == "one-loss-first":
                second.loss.backward(retain_graph=True)
                loss = first.loss
            else:
                loss = (first.hidden_states[-1] - second.hidden_states[-1]).square().mean()
            loss.backward()
        found.append(gradients(model))
    assert_same_gradients(*found, rtol=1e-4, atol=1e-6)


@checkpointed
def test_a_forward_in_between_does_not_change_a_pending_backward(reentrant):
    """Forward, evaluation of another batch, backward."""
    found = []
    for checkpointing in (False, True):
        model = lora_model("bert", feed_forward=True)
        if checkpointing:
            enable(model, reentrant)
        hiddenkey.attach(model, hiddenkey.method("hiddencut", rate=0.5))
        with seeded(0):
            loss = model(**batch(padding="left")).loss
        model.eval()
        with torch.no_grad():
            model(**batch(padding="none", tokens=6, size=2))
        model.train()
        with seeded(8), torch.no_grad():
            model(**batch(padding="right", seed=3))
        loss.backward()
        found.append(gradients(model))
    assert_same_gradients(*found, rtol=1e-5, atol=1e-6)


@checkpointed
@pytest.mark.parametrize("method", ["hiddenkey", "dropkey", "hiddencut", "lora"])
def test_a_generator_that_is_not_preserved_is_refused(method, reentrant):
    message = (
        "activation checkpointing with preserve_rng_state=False recomputes a layer with other"
        " dropout masks and gives wrong gradients; remove it or set it to True"
    )
    model = plain_model("bert")
    enable(model, reentrant, preserve_rng_state=False)
    with pytest.raises(AttachError, match=message):
        hiddenkey.attach(model, method)

    model = lora_model("gpt2")
    hiddenkey.attach(model, method)
    enable(model, reentrant, preserve_rng_state=False)
    with pytest.raises(AttachError, match=message):
        step(model, batch())
    model.eval()
    model(**batch())
    model.train()
    enable(model, reentrant, preserve_rng_state=True)
    step(model, batch())


@pytest.mark.parametrize("reentrant", [True, False])
def test_detaching_before_a_recomputing_backward_pass_is_refused(reentrant):
    """Layers would be run again without the masks of their pass: a silently wrong gradient."""
    model = lora_model("llama", "causal")
    enable(model, reentrant)
    with hiddenkey.attach(model, "hiddenkey-minus"):
        loss = run(model, batch("causal")).loss
    with pytest.raises(AttachError, match="detached between a forward and its backward pass"):
        loss.backward()


def test_without_checkpointing_detaching_before_the_backward_pass_changes_nothing():
    model = lora_model("llama", "causal")
    _, inside = step_with(model, early=False)
    _, after = step_with(model, early=True)
    assert_same_gradients(inside, after)


def step_with(model, *, early):
    model.zero_grad()
    with hiddenkey.attach(model, "hiddenkey-minus"):
        loss = run(model, batch("causal")).loss
        if not early:
            loss.backward()
    if early:
        loss.backward()
    return loss.item(), gradients(model)
