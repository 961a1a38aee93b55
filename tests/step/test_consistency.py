"""The consistency loss and its gradients, against two passes compared by hand in float64."""

import dataclasses

import pytest
import torch
import transformers

import hiddenkey
from hiddenkey import Consistency, anatomy
from hiddenkey.framework.compensation.kl import bidirectional_kl
from models import (
    DECODERS,
    ENCODERS,
    FAMILIES,
    FAMILY_TASKS,
    assert_same_gradients,
    batch,
    configuration,
    gradients,
    kl_by_hand,
    lora_model,
    run,
    seeded,
    step,
    transformer_in,
)
from two_passes import (
    DIVERGENCES,
    NOISE,
    LastStates,
    config,
    divergence_by_hand,
    two_passes_by_hand,
)


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize(("family", "task"), FAMILY_TASKS)
def test_the_loss_is_the_task_loss_plus_weight_times_divergence(family, task, padding, kind):
    inputs = batch(task, padding)
    by_hand, _, task_loss, divergence = two_passes_by_hand(family, task, kind, inputs)
    expected = task_loss + 2.5 * divergence
    expected.backward()

    model = lora_model(family, task)
    attachment = hiddenkey.attach(model, config(kind, weight=2.5))
    loss, found = step(model, inputs)
    assert divergence > 1e-4
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert attachment.losses == {
        "task": pytest.approx(task_loss.item(), rel=1e-6),
        "consistency": pytest.approx(2.5 * divergence.item(), rel=1e-4),
    }
    assert sum(attachment.losses.values()) == pytest.approx(loss, rel=1e-6)
    assert_same_gradients(found, gradients(by_hand), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["kl", "mixture"])
@pytest.mark.parametrize(("family", "task"), FAMILY_TASKS)
def test_both_branches_carry_gradient(family, task, kind):
    """The task loss is the mean over both passes; HiddenCut's is that of the pass without noise."""
    inputs = batch(task)
    by_hand, other, trained, divergence = two_passes_by_hand(family, task, kind, inputs, both=True)
    task_loss = (trained + other) / 2 if kind == "kl" else other
    expected = task_loss + 1.5 * divergence
    expected.backward()
    model = lora_model(family, task)
    attachment = hiddenkey.attach(model, config(kind, weight=1.5, backward="both"))
    loss, found = step(model, inputs)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert attachment.losses["task"] == pytest.approx(task_loss.item(), rel=1e-5)
    assert sum(attachment.losses.values()) == pytest.approx(loss, rel=1e-6)
    assert_same_gradients(found, gradients(by_hand), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("on", ["logits", "representation"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_place_of_comparison_can_be_chosen_for_classification(family, on):
    inputs = batch("classification", "right")
    model = lora_model(family)
    hiddenkey.attach(model, NOISE)
    last = LastStates(family, model)
    with seeded(0), torch.no_grad():
        first = model(**inputs)
        first_states = last.states
        second = model(**inputs)
    pair = (second.logits, first.logits) if on == "logits" else (last.states, first_states)
    task = "classification" if on == "logits" else "regression"
    expected = divergence_by_hand(task, "kl", *pair, inputs)
    attachment = hiddenkey.attach(model, config(on=on))
    run(model, inputs)
    assert attachment.losses["consistency"] == pytest.approx(expected.item(), rel=1e-4)


def test_regression_without_an_attention_mask_takes_all_tokens():
    inputs = batch("regression", "none")
    losses = []
    for given in (inputs, {k: v for k, v in inputs.items() if k != "attention_mask"}):
        model = lora_model("bert", "regression")
        attachment = hiddenkey.attach(model, config())
        run(model, given)
        losses.append(attachment.losses["consistency"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] > 0


@pytest.mark.parametrize("family", DECODERS)
def test_labels_of_a_language_model_may_be_sparse(family):
    inputs = batch("causal")
    inputs["labels"][:, 3:6] = -100
    inputs["labels"][2] = -100
    _, _, task_loss, divergence = two_passes_by_hand(family, "causal", "kl", inputs)
    model = lora_model(family, "causal")
    hiddenkey.attach(model, config())
    assert run(model, inputs).loss.item() == pytest.approx(
        (task_loss + divergence).item(), rel=1e-5
    )


@pytest.mark.parametrize("family", ENCODERS)
def test_masked_language_models_compare_the_labelled_tokens(family):
    with seeded(0):
        model = transformers.AutoModelForMaskedLM.from_config(configuration(family)).train()
    inputs = batch("causal")
    inputs["labels"][:, 4:] = -100
    hiddenkey.attach(model, NOISE)
    with seeded(0), torch.no_grad():
        other, trained = model(**inputs), model(**inputs)
    rows = kl_by_hand(trained.logits, other.logits)[inputs["labels"] != -100]
    attachment = hiddenkey.attach(model, config())
    loss = run(model, inputs).loss.item()
    assert attachment.losses["consistency"] == pytest.approx(rows.mean().item(), rel=1e-4)
    assert loss == pytest.approx((trained.loss + rows.mean()).item(), rel=1e-5)


@pytest.mark.parametrize("family", ENCODERS)
def test_token_classifiers_compare_the_labelled_tokens(family):
    with seeded(0):
        model = transformers.AutoModelForTokenClassification.from_config(
            configuration(family, num_labels=3)
        ).train()
    inputs = batch("causal")
    inputs["labels"] = torch.where(inputs["labels"] == -100, -100, inputs["labels"] % 3)
    hiddenkey.attach(model, NOISE)
    with seeded(0), torch.no_grad():
        other, trained = model(**inputs), model(**inputs)
    rows = kl_by_hand(trained.logits, other.logits)[inputs["labels"] != -100]
    attachment = hiddenkey.attach(model, config())
    run(model, inputs)
    assert attachment.losses["consistency"] == pytest.approx(rows.mean().item(), rel=1e-4)


def test_a_batch_of_embeddings_works_like_one_of_ids():
    model = lora_model("llama", "causal")
    attachment = hiddenkey.attach(model, config(fraction=0.5))
    inputs = batch("causal")
    run(model, inputs)
    expected = attachment.losses
    ids = inputs.pop("input_ids")
    embeddings = transformer_in(model).get_input_embeddings()(ids)
    run(model, {**inputs, "inputs_embeds": embeddings})
    assert attachment.losses == {k: pytest.approx(v, rel=1e-5) for k, v in expected.items()}


@pytest.mark.parametrize("outputs", [1, 3])
def test_regression_on_images_compares_representations(outputs):
    """A softmax of one output is 1, and one of several measurements means nothing."""
    seeded(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        image_size=16, patch_size=4, num_labels=outputs, problem_type="regression",
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).train()
    inputs = {"pixel_values": torch.randn(4, 3, 16, 16), "labels": torch.randn(4, outputs)}
    attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3))
    states = []
    last = anatomy.find_layers(model)[-1].module
    last.register_forward_hook(lambda module, args, output: states.append(output))
    model(**inputs)
    rows = [s[0] if isinstance(s, tuple) else s for s in states]
    expected = bidirectional_kl(rows[1].flatten(0, 1), rows[0].flatten(0, 1)).mean()
    assert attachment.losses["consistency"] == pytest.approx(expected.item(), rel=1e-4)
    assert expected > 0
    refused = dataclasses.replace(attachment.config, consistency=Consistency(on="logits"))
    with pytest.raises(hiddenkey.ConfigError, match="means nothing for regression"):
        hiddenkey.attach(model, refused)
