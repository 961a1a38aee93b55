"""The second forward pass itself: how it runs, what it keeps, and when there is none."""

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

import hiddenkey
from hiddenkey.step.consistency import TwoPassLoss
from models import (
    DECODERS,
    FAMILIES,
    FAMILY_TASKS,
    LAYER_STACK,
    batch,
    gradients,
    lora_model,
    plain_model,
    run,
    step,
    transformer_in,
)
from two_passes import NOISE, Calls, config


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({}, {"grad": False, "size": 4, "training": {True}}),
        ({"kind": "js"}, {"grad": False, "size": 4, "training": {False}}),
        ({"backward": "both"}, {"grad": True, "size": 4, "training": {True}}),
        ({"fraction": 0.5}, {"grad": False, "size": 2, "training": {True}}),
        ({"fraction": 0.1}, {"grad": False, "size": 1, "training": {True}}),
        ({"fraction": 0.5, "backward": "both"}, {"grad": True, "size": 2, "training": {True}}),
    ],
    ids=str,
)
def test_how_the_other_pass_runs(family, settings, first):
    model = lora_model(family)
    calls = Calls(family, model)
    hiddenkey.attach(model, config(**settings))
    step(model, batch())
    assert calls.seen == [first, {"grad": True, "size": 4, "training": {True}}]


@pytest.mark.parametrize("kind", ["kl", "js"])
@pytest.mark.parametrize(("family", "task"), [("bert", "regression"), ("llama", "causal")])
def test_the_other_pass_saves_nothing_for_backward_and_its_rows_are_constants(family, task, kind):
    """With weight 0 the graph is that of the trained pass, but for the loss's own few nodes."""

    def saved_in_a_forward(settings):
        model = lora_model(family, task)
        hiddenkey.attach(model, settings)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            run(model, batch(task))
        return len(sizes)

    alone = saved_in_a_forward(NOISE)
    one, both = saved_in_a_forward(config(kind)), saved_in_a_forward(config(backward="both"))
    assert alone < one < alone + 20
    assert both > 1.8 * alone


def test_the_rows_kept_of_the_other_pass_require_no_gradient(monkeypatch):
    kept = []
    before = TwoPassLoss.before
    monkeypatch.setattr(TwoPassLoss, "before", lambda *args: kept.append(before(*args)) or kept[-1])
    for task in ("classification", "regression"):
        model = lora_model("bert", task)
        hiddenkey.attach(model, config())
        step(model, batch(task))
    assert [other.rows.requires_grad for other in kept] == [False, False]
    assert [other.task_loss for other in kept] == [None, None]
    assert kept[0].rows.shape == (4, 3)
    assert kept[1].rows.shape[-1] == 32


@pytest.mark.parametrize("family", FAMILIES)
def test_training_flags_come_back_after_an_inference_pass(family):
    """Also the unusual ones, and also when the pass fails."""
    model = lora_model(family)
    attachment = hiddenkey.attach(model, config("js"))
    quiet = transformer_in(model).get_submodule(LAYER_STACK[family])[1]
    quiet.eval()
    flags = {name: module.training for name, module in model.named_modules()}
    step(model, batch())
    assert {name: module.training for name, module in model.named_modules()} == flags

    def fail(module, args):
        raise RuntimeError("out of memory")

    handle = quiet.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model(**batch())
    handle.remove()
    assert {name: module.training for name, module in model.named_modules()} == flags
    loss, _ = step(model, batch())
    assert sum(attachment.losses.values()) == pytest.approx(loss)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_off_in_evaluation_and_without_gradients(family):
    model = lora_model(family)
    calls = Calls(family, model)
    attachment = hiddenkey.attach(model, config())
    hiddenkey_free = lora_model(family)
    hiddenkey.attach(hiddenkey_free, NOISE)
    inputs = batch()
    with torch.no_grad():
        assert torch.equal(run(model, inputs).loss, run(hiddenkey_free, inputs).loss)
    model.eval()
    hiddenkey_free.eval()
    assert torch.equal(run(model, inputs).loss, run(hiddenkey_free, inputs).loss)
    assert len(calls.seen) == 2
    assert attachment.consistency_passes == 0
    assert attachment.losses == {}


def test_bfloat16_models_compare_in_float32():
    model = plain_model("bert").to(torch.bfloat16)
    attachment = hiddenkey.attach(model, config())
    loss, found = step(model, batch())
    assert sum(attachment.losses.values()) == pytest.approx(loss, rel=1e-2)
    assert attachment.losses["consistency"] > 0
    assert all(g.isfinite().all() for g in found.values())


@pytest.mark.parametrize(
    ("family", "task", "lm_loss"),
    [*((*case, "full") for case in FAMILY_TASKS), *((f, "causal", "chunked") for f in DECODERS)],
)
def test_the_other_pass_in_bfloat16_is_the_same_loss_to_its_precision(family, task, lm_loss):
    model = lora_model(family, task)
    inputs = batch(task)
    found = []
    for precision in ("same", "bfloat16"):
        attachment = hiddenkey.attach(model, config(precision=precision), lm_loss=lm_loss)
        loss, total = step(model, inputs)
        found.append((loss, attachment.losses["task"], attachment.losses["consistency"]))
        assert all(gradient.dtype == torch.float32 for gradient in total.values())
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)  # the trained pass is as it was
    assert found[1][2] == pytest.approx(found[0][2], rel=0.1)
    assert found[1][2] != found[0][2]


def test_the_other_pass_alone_is_in_bfloat16():
    model = lora_model("bert")
    dtypes = []
    last = transformer_in(model).get_submodule("bert.encoder.layer.1.output.dense")
    last.register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    attachment = hiddenkey.attach(model, config(precision="bfloat16"))
    step(model, batch())
    assert dtypes == [torch.bfloat16, torch.float32]
    assert "second pass bfloat16" in str(attachment)


@pytest.mark.parametrize(("family", "task"), [("bert", "classification"), ("llama", "causal")])
def test_autocasts_of_two_types_do_not_share_weights(family, task):
    """float16 outside, as scaled losses have it, and bfloat16 in the pass without gradient."""
    model = lora_model(family, task)
    attachment = hiddenkey.attach(model, config(precision="bfloat16"))
    with torch.autocast("cpu", dtype=torch.float16):
        loss = model(**batch(task)).loss
    loss.backward()
    assert 0 < attachment.losses["consistency"] < 1
    assert all(each.isfinite().all() for each in gradients(model).values())


def test_both_branches_have_one_precision():
    with pytest.raises(hiddenkey.ConfigError, match="bfloat16' is for a pass without gradient"):
        config(precision="bfloat16", backward="both")


@pytest.mark.parametrize("kind", ["output", "tuple"])
def test_encoder_outputs_computed_beforehand_are_chosen_with_their_sequences(kind):
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=60, decoder_start_token_id=0, **sizes)
    ).train()
    tokens, labels = torch.arange(40).view(4, 10) + 3, torch.arange(28).view(4, 7) + 3
    found = model.get_encoder()(input_ids=tokens)
    given = found if kind == "output" else (found[0],)
    attachment = hiddenkey.attach(model, config(fraction=0.5))
    out = run(model, {"input_ids": tokens, "encoder_outputs": given, "labels": labels})
    assert torch.isfinite(out.loss)
    assert attachment.losses["consistency"] > 0
