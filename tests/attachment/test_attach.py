"""Attaching to each family: where it acts, what it does in training, and what it leaves behind."""

import copy

import pytest
import torch

import hiddenkey
from hiddenkey import Consistency, Drop, DropoutConfig
from models import (
    ATTENTION,
    ATTENTIONS,
    DECODERS,
    FAMILIES,
    FAMILY_TASKS,
    LAYER_STACK,
    SECOND_DENSE,
    assert_same_gradients,
    batch,
    build,
    lora_model,
    plain_model,
    run,
    seeded,
    snapshot,
    step,
    transformer_in,
)

HALF = hiddenkey.method("hiddenkey-minus", rate=0.5)


everywhere = pytest.mark.parametrize(
    ("family", "task", "peft", "attention"),
    [
        pytest.param(family, task, peft, attention, id=f"{family}-{task}-{name}-{attention}")
        for family, task in FAMILY_TASKS
        for peft, name in ((False, "plain"), (True, "lora"))
        for attention in ATTENTIONS
    ],
)


@everywhere
def test_hiddenkey_has_an_attention_and_a_hidden_site_in_every_layer(family, task, peft, attention):
    model = build(family, task, peft=peft, attention=attention, layers=3)
    attachment = hiddenkey.attach(model, "hiddenkey")
    found = {(s.layer, s.position, s.pattern, s.name) for s in attachment.sites}
    stack = LAYER_STACK[family]
    expected = {
        (layer, position, pattern, f"{stack}.{layer}.{name}")
        for layer in range(3)
        for position, pattern, name in (
            ("attention_logits", "column", ATTENTION[family]),
            ("hidden", "element", SECOND_DENSE[family]),
        )
    }
    assert found == expected
    assert len(attachment.sites) == 6
    modules = dict(transformer_in(model).named_modules())
    assert all(site.name in modules for site in attachment.sites)
    assert {(s.rate, s.rescale, s.kernel) for s in attachment.sites} == {
        (0.1, "none", "fused"),
        (0.1, "inverse", "hook"),
    }


@everywhere
def test_noise_is_in_training_only_and_follows_the_seed(family, task, peft, attention):
    model = build(family, task, peft=peft, attention=attention)
    inputs = batch(task, "left")
    model.eval()
    untouched = model(**inputs)
    hiddenkey.attach(model, HALF)
    evaluated = model(**inputs)
    assert torch.equal(evaluated.logits, untouched.logits)
    assert torch.equal(evaluated.loss, untouched.loss)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    model.train()
    one, again, other = run(model, inputs, 1), run(model, inputs, 1), run(model, inputs, 2)
    assert torch.equal(one.logits, again.logits)
    assert not torch.allclose(one.logits, other.logits, atol=1e-3)
    assert not torch.allclose(one.logits, untouched.logits, atol=1e-3)
    model.eval()
    assert torch.equal(model(**inputs).logits, untouched.logits)


@everywhere
@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_gradients_are_finite_and_reach_every_trained_matrix(
    family, task, peft, attention, padding
):
    more = {"feed_forward": True} if peft else {}
    model = build(family, task, peft=peft, attention=attention, **more)
    hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3))
    loss, gradients = step(model, batch(task, padding))
    assert loss == pytest.approx(loss)  # not NaN
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    adapters = [name for name, _ in model.named_parameters() if "lora_" in name]
    assert len(adapters) == (
        2 * 2 * {"bert": 4, "roberta": 4, "gpt2": 3, "llama": 5}[family] if peft else 0
    )
    matrices = adapters or [name for name, p in model.named_parameters() if p.dim() == 2]
    unused = ("token_type", "position", "wpe")
    for name in matrices:
        if not any(part in name for part in unused):
            assert gradients[name].abs().max() > 0, name


@everywhere
def test_detach_restores_everything(family, task, peft, attention, tmp_path):
    model = build(family, task, peft=peft, attention=attention, dropout=0.3)
    inputs = batch(task, "left")
    plain_loss, plain_gradients = step(model, inputs)
    model.save_pretrained(tmp_path / "before")
    # only now, since calls with labels and saving settle some of the model's own config
    before = snapshot(model)
    weights = copy.deepcopy(model.state_dict())

    attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3))
    noisy_loss, _ = step(model, inputs)
    assert noisy_loss != plain_loss
    assert snapshot(model) != before
    assert model.state_dict().keys() == weights.keys()
    model.save_pretrained(tmp_path / "during")
    attachment.detach()

    assert snapshot(model) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    loss, gradients = step(model, inputs)
    assert loss == plain_loss
    assert_same_gradients(gradients, plain_gradients, rtol=0, atol=0)
    for file in (tmp_path / "before").iterdir():
        if file.name != "README.md":
            assert file.read_bytes() == (tmp_path / "during" / file.name).read_bytes(), file.name
    assert len(list((tmp_path / "before").iterdir())) == len(list((tmp_path / "during").iterdir()))


@everywhere
def test_a_rate_of_zero_is_the_model_without_dropout(family, task, peft, attention):
    """The library's own attention paths read masks, causality and scaling as the model's do."""
    model = build(family, task, peft=peft, attention=attention, dropout=0.0)
    for padding in ("none", "right", "left"):
        inputs = batch(task, padding)
        plain_loss, plain_gradients = step(model, inputs)
        for kernel in ("reference", "fused"):
            with hiddenkey.attach(
                model, hiddenkey.method("hiddenkey-minus", rate=0.0), kernel=kernel
            ):
                loss, gradients = step(model, inputs)
            assert loss == pytest.approx(plain_loss, rel=1e-5)
            assert_same_gradients(gradients, plain_gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "scale", [{"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}]
)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_gpt2_keeps_its_unusual_scaling(scale, attention):
    model = plain_model("gpt2", "causal", attention=attention, dropout=0.0, **scale)
    inputs = batch("causal", "left")
    plain_loss, _ = step(model, inputs)
    for kernel in ("reference", "fused"):
        with hiddenkey.attach(model, hiddenkey.method("dropkey", rate=0.0), kernel=kernel):
            assert step(model, inputs)[0] == pytest.approx(plain_loss, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_sdpa_and_eager_models_train_alike(family):
    losses, found = [], []
    for attention in ATTENTIONS:
        model = lora_model(family, attention=attention)
        hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3))
        loss, gradients = step(model, batch(padding="left"))
        losses.append(loss)
        found.append(gradients)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert_same_gradients(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["dropkey-column", "dropkey-span", "dropattention-column"])
def test_fused_and_reference_kernels_train_alike(family, method):
    found = []
    for kernel in ("fused", "reference"):
        model = lora_model(family)
        attachment = hiddenkey.attach(model, hiddenkey.method(method, rate=0.4), kernel=kernel)
        assert {site.kernel for site in attachment.sites} == {kernel}
        found.append(step(model, batch(padding="left"))[1])
    assert_same_gradients(*found, rtol=1e-4, atol=1e-5)


def test_evaluation_counts_no_share_and_no_loss():
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, "hiddenkey")
    model.eval()
    model(**batch())
    assert all(share != share for share in attachment.shares().values())
    assert attachment.losses == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_ways_to_call_give_the_same_noise(family):
    """Positional arguments, and embeddings in place of ids."""
    model = transformer_in(
        plain_model(family, "causal" if family in DECODERS else "classification")
    )
    hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.4))
    task = "causal" if family in DECODERS else "classification"
    inputs = batch(task, "right")
    expected = run(model, inputs)
    with seeded(0):
        positional = model(
            inputs["input_ids"],
            labels=inputs["labels"],
            attention_mask=inputs["attention_mask"],
        )
    assert torch.equal(positional.loss, expected.loss)
    if family in ("bert", "llama"):  # the others make positions out of ids
        embeddings = model.get_input_embeddings()(inputs["input_ids"])
        rest = {"attention_mask": inputs["attention_mask"], "labels": inputs["labels"]}
        with seeded(0):
            assert torch.equal(model(inputs_embeds=embeddings, **rest).logits, expected.logits)


def test_a_model_without_an_attention_mask_sees_all_tokens():
    model = plain_model("bert")
    hiddenkey.attach(model, hiddenkey.method("hiddencut", rate=0.5))
    inputs = batch(padding="none")
    with_mask = run(model, inputs)
    del inputs["attention_mask"]
    assert torch.equal(run(model, inputs).logits, with_mask.logits)


def test_summary_and_str():
    model = lora_model("bert", layers=3)
    config = DropoutConfig(
        (*hiddenkey.method("hiddenkey", rate=0.2).drops, Drop("output", "element", 0.3)),
        Consistency(weight=2.0, fraction=0.5, every=3),
        layers=(0, 2),
    )
    attachment = hiddenkey.attach(model, config)
    assert attachment.summary() == [
        "attention_logits: column, rate 0.2, rescale none, 2 of 3 layers, fused",
        "hidden: element, rate 0.2, rescale inverse, 2 of 3 layers, hook",
        "output: element, rate 0.3, rescale inverse, classifier, hook",
        "consistency: kl, weight 2, backward one, fraction 0.5, every 3",
        "the model's own dropout: off, was 0.1 in 11 places (keep_model_dropout=True leaves it on)",
    ]
    assert str(attachment) == "\n".join(attachment.summary())
    lines = str(hiddenkey.attach(model, "lora")).splitlines()
    assert lines == ["no noise", attachment.summary()[-1]]
    without = plain_model("llama")
    for attention in (each.self_attn for each in without.model.layers):
        attention.attention_dropout = 0.0
    shown = str(hiddenkey.attach(without, "lora"))
    assert shown == "no noise; the model's own dropout is off"
    kept = DropoutConfig(keep_model_dropout=True)
    assert str(hiddenkey.attach(model, kept)) == "no noise; the model's own dropout is on"


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("chosen", ["eager", "sdpa"])
def test_noise_goes_on_when_the_attention_implementation_is_changed(family, chosen):
    task = "classification" if family == "bert" else "causal"
    model = plain_model(family, task, dropout=0.0)
    model.set_attn_implementation("sdpa" if chosen == "eager" else "eager")
    attachment = hiddenkey.attach(model, hiddenkey.method("dropkey", rate=0.5))
    inputs = batch(task)
    model(**inputs).loss.backward()
    attachment.shares()
    model.set_attn_implementation(chosen)
    seeded(1)
    noisy = model(**inputs).loss.item()
    assert all(0.2 < share < 0.8 for share in attachment.shares().values())
    seeded(2)
    assert model(**inputs).loss.item() != noisy
    attachment.detach()
    assert model.config._attn_implementation == chosen


def test_an_implementation_that_cannot_drop_is_refused_in_the_next_pass():
    model = plain_model("llama", "causal")
    attachment = hiddenkey.attach(model, "dropkey")
    model(**batch("causal"))
    model.config._attn_implementation_internal = "paged|sdpa"
    with pytest.raises(hiddenkey.AttachError, match=r"this model uses 'paged\|sdpa'"):
        model(**batch("causal"))
    attachment.detach()
    assert model.config._attn_implementation == "paged|sdpa"
