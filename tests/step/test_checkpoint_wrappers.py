"""PyTorch's own activation checkpointing, by wrappers around the layers."""

import functools

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

import hiddenkey
from hiddenkey import AttachError, Consistency, ConsistencyError, DropoutConfig
from models import (
    LAYER_STACK,
    assert_same_gradients,
    batch,
    gradients,
    lora_model,
    seeded,
    step,
    transformer_in,
)

pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")

PRODUCTS = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default]
WRAPPERS = {
    "plain": {"checkpoint_impl": CheckpointImpl.NO_REENTRANT},
    "re-entrant": {"checkpoint_impl": CheckpointImpl.REENTRANT},
    "selective": {
        "checkpoint_impl": CheckpointImpl.NO_REENTRANT,
        "context_fn": functools.partial(create_selective_checkpoint_contexts, PRODUCTS),
    },
}
DROPS = hiddenkey.method("hiddenkey", rate=0.4).drops
METHODS = {
    "span-hiddencut": hiddenkey.method("hiddencut", rate=0.5),
    "hiddenkey": DropoutConfig(DROPS, Consistency()),
    "both-on-a-part": DropoutConfig(DROPS, Consistency(backward="both", fraction=0.5)),
    "top-layer": DropoutConfig(DROPS, Consistency(), layers=(1,)),
}


def built(family):
    model = lora_model(family, feed_forward=True)
    model.enable_input_require_grads()
    model.config.use_cache = False  # a recomputed layer would append its keys once more
    return model


def wrap(model, family, wrapper):
    layers = set(transformer_in(model).get_submodule(LAYER_STACK[family]))
    apply_activation_checkpointing(
        model,
        checkpoint_wrapper_fn=functools.partial(checkpoint_wrapper, **WRAPPERS[wrapper]),
        check_fn=lambda module: module in layers,
    )


def two_forwards_then_one_backward(model):
    one, two = batch(padding="left"), batch(padding="right", seed=1)
    one["attention_mask"][0, :5] = 0  # rows whose visible tokens differ between the two
    with seeded(3):
        losses = [model(**inputs).loss for inputs in (one, two)]
        sum(losses).backward()
    return sum(losses).item(), gradients(model)


def unwrapped(found):
    return {name.replace("_checkpoint_wrapped_module.", ""): g for name, g in found.items()}


@pytest.mark.parametrize("run", [step, two_forwards_then_one_backward])
@pytest.mark.parametrize(
    ("wrapper", "when"),
    [*((wrapper, "before") for wrapper in WRAPPERS), ("plain", "after"), ("selective", "after")],
)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_gradients_and_shares_are_those_without(family, method, wrapper, when, run):
    inputs = (batch(padding="left"),) if run is step else ()
    model = built(family)
    attachment = hiddenkey.attach(model, METHODS[method])
    expected, plain = run(model, *inputs)
    shares = attachment.shares()

    model = built(family)
    if when == "before":
        wrap(model, family, wrapper)
    attachment = hiddenkey.attach(model, METHODS[method])
    if when == "after":
        wrap(model, family, wrapper)
    loss, found = run(model, *inputs)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert_same_gradients(unwrapped(found), plain, rtol=1e-4, atol=1e-6)
    assert attachment.shares() == shares
    assert all(share > 0.1 for share in shares.values())


def test_a_re_entrant_wrapper_around_an_attached_layer_is_refused():
    model = built("bert")
    hiddenkey.attach(model, "hiddenkey")
    wrap(model, "bert", "re-entrant")
    with pytest.raises(
        AttachError,
        match=r"re-entrant checkpoint wrapper was put around .*layer.0 after attach, .*; wrap"
        r" before attach, or take CheckpointImpl.NO_REENTRANT",
    ):
        step(model, batch())


def whole(model, inputs):
    """Call a model inside of activation checkpointing, which runs the call again."""
    return checkpoint(lambda given: model(**given).loss, inputs, use_reentrant=False)


@pytest.mark.parametrize("method", ["hiddenkey-minus", "hiddenkey"])
def test_a_model_that_runs_again_as_a_whole_counts_once(method):
    found = []
    for call in (lambda model, inputs: model(**inputs).loss, whole):
        model = lora_model("bert", feed_forward=True)
        attachment = hiddenkey.attach(model, method)
        with seeded(1):
            loss = call(model, batch())
            loss.backward()
        attachment.meter.end_step(mean=False)
        counts = attachment.consistency_passes, attachment.shares(), attachment.meter.read()
        found.append((loss.item(), counts, gradients(model)))
    assert found[0][:2] == found[1][:2]
    assert_same_gradients(found[0][2], found[1][2])


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (hiddenkey.method("temporal"), "compares with the prediction that the pass itself"),
        (DropoutConfig(DROPS, Consistency(every=2)), "falls on another pass by every=2"),
    ],
)
def test_a_loss_that_would_be_another_one_there_is_refused(config, reason):
    model = lora_model("bert")
    hiddenkey.attach(model, config)
    loss = whole(model, batch())
    with pytest.raises(ConsistencyError, match=reason):
        loss.backward()
