"""The loss against earlier predictions, by hand in float64 from passes with known weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import hiddenkey
from earlier_passes import NOISE, TOP, change, config, shortened_by_hand, without_noise
from hiddenkey import ConfigError, Consistency, ConsistencyError, Drop, DropoutConfig
from models import (
    DECODERS,
    FAMILY_TASKS,
    assert_same_gradients,
    batch,
    gradients,
    kl_by_hand,
    lora_model,
    seeded,
    step,
)
from task_models import batch_for, model_for


def divergence_by_hand(task: str, now: Tensor, earlier: Tensor, inputs: dict) -> Tensor:
    if task == "classification":
        return kl_by_hand(now, earlier).mean()
    if task == "regression":
        return (now.double() - earlier.double()).square().mean()
    labelled = inputs["labels"][:, 1:] != -100
    now, earlier = now[:, :-1][labelled], earlier[:, :-1][labelled]
    classes = earlier.topk(TOP).indices
    return kl_by_hand(shortened_by_hand(now, classes), shortened_by_hand(earlier, classes)).mean()


@pytest.mark.parametrize(
    ("family", "task", "lm_loss"),
    [
        *((*case, "full") for case in FAMILY_TASKS),
        *((family, "causal", "chunked") for family in DECODERS),
    ],
)
def test_the_loss_is_the_task_loss_plus_the_divergence_from_the_earlier_pass(family, task, lm_loss):
    inputs = batch(task, "right")
    by_hand = lora_model(family, task)
    hiddenkey.attach(by_hand, NOISE)
    with seeded(1), torch.no_grad():
        earlier = by_hand(**inputs).logits
    change(by_hand)
    with seeded(2):
        output = by_hand(**inputs)
    divergence = divergence_by_hand(task, output.logits, earlier, inputs)
    expected = output.loss + 2.5 * divergence
    expected.backward()

    model = lora_model(family, task)
    attachment = hiddenkey.attach(model, config(weight=2.5, top=TOP), lm_loss=lm_loss)
    step(model, inputs, seed=1)
    assert attachment.losses["consistency"] == 0
    change(model)
    loss, found = step(model, inputs, seed=2)
    assert divergence > 1e-4
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert attachment.losses["consistency"] == pytest.approx(2.5 * divergence.item(), rel=1e-4)
    assert sum(attachment.losses.values()) == pytest.approx(loss, rel=1e-6)
    assert_same_gradients(found, gradients(by_hand), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("task", ["labels", "answers", "choices", "tokens"])
def test_each_task_type_is_compared_as_its_task_loss_is(task):
    inputs = batch_for(task)
    by_hand = model_for("bert", task)
    hiddenkey.attach(by_hand, NOISE)
    with seeded(1), torch.no_grad():
        earlier = by_hand(**inputs)
    change(by_hand)
    with seeded(2):
        output = by_hand(**inputs)
    if task == "answers":
        hidden = torch.where(inputs["attention_mask"].bool(), 0.0, -300.0)
        tokens = inputs["input_ids"].shape[1]
        expected = 0
        for name in ("start", "end"):
            rows = kl_by_hand(output[f"{name}_logits"] + hidden, earlier[f"{name}_logits"] + hidden)
            expected = expected + 0.5 * rows[inputs[f"{name}_positions"] < tokens].mean()
    elif task == "labels":
        pairs = [torch.stack([each.logits, 0 * each.logits], -1) for each in (output, earlier)]
        expected = kl_by_hand(*pairs).mean()
    else:
        rows = kl_by_hand(output.logits, earlier.logits)
        expected = (rows if task == "choices" else rows[inputs["labels"] != -100]).mean()
    (output.loss + expected).backward()

    model = model_for("bert", task)
    attachment = hiddenkey.attach(model, config())
    step(model, inputs, seed=1)
    change(model)
    _, found = step(model, inputs, seed=2)
    assert expected > 1e-4
    assert attachment.losses["consistency"] == pytest.approx(expected.item(), rel=1e-4)
    assert_same_gradients(found, gradients(by_hand), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("lm_loss", ["full", "chunked"])
def test_every_keeps_all_predictions_and_compares_some(lm_loss):
    """With ``every=2`` the third pass is compared with the second, twice as heavy."""
    inputs = batch("causal", "right")
    model, attachment = without_noise("causal", "llama", every=2, lm_loss=lm_loss)
    plain, other = without_noise("causal", "llama", lm_loss=lm_loss)
    shown = []
    for _ in range(3):
        step(model, inputs)
        step(plain, inputs)
        shown.append((attachment.losses.get("consistency"), other.losses["consistency"]))
        change(model)
        change(plain)
    assert [ours for ours, _ in shown] == [0, None, pytest.approx(2 * shown[2][1], rel=1e-5)]


@pytest.mark.parametrize("lm_loss", ["full", "chunked"])
def test_a_fraction_of_one_half_compares_two_of_four_twice_as_heavily(lm_loss):
    inputs = batch("causal", "right")
    single = []
    for index in range(4):
        others = inputs["labels"].clone()
        model, attachment = without_noise("causal", "llama", lm_loss="full")
        step(model, inputs)
        change(model)
        step(model, inputs)
        whole = attachment.losses["consistency"]
        # the mean over all labelled tokens, of which the other sequences' count 0
        model, attachment = without_noise("causal", "llama", lm_loss="full")
        step(model, {name: value[index : index + 1] for name, value in inputs.items()})
        change(model)
        step(model, inputs)
        single.append(attachment.losses["consistency"])
        assert torch.equal(others, inputs["labels"])
    assert sum(single) == pytest.approx(whole, rel=1e-4)
    model, attachment = without_noise("causal", "llama", fraction=0.5, lm_loss=lm_loss)
    step(model, inputs, seed=0)
    change(model)
    step(model, inputs, seed=3)
    with seeded(3):
        chosen = torch.randperm(4)[:2]
    expected = 2 * sum(single[index] for index in chosen.tolist())
    assert attachment.losses["consistency"] == pytest.approx(expected, rel=1e-4)
    assert len(attachment.history) == 4


def test_a_step_has_one_forward_pass():
    model, _ = without_noise()
    calls = []
    model.get_base_model().bert.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        step(model, batch("classification"))
    assert len(calls) == 3


def test_a_prediction_that_was_no_number_is_not_compared():
    inputs = batch("classification", "right")
    model, attachment = without_noise()
    step(model, inputs)
    history = attachment.history
    history._values[0] = torch.nan
    change(model)
    step(model, inputs)
    lost = attachment.losses["consistency"]
    step(model, inputs)
    assert 0 < lost < 1
    assert attachment.losses["consistency"] == pytest.approx(0, abs=1e-6)


def test_evaluation_and_passes_without_gradient_keep_nothing():
    inputs = batch("classification", "right")
    model, attachment = without_noise()
    model.eval()(**inputs)
    with torch.no_grad():
        model.train()(**inputs)
    assert len(attachment.history) == 0


def test_a_loss_of_ones_own_is_added_to():
    inputs = batch("classification", "right")
    labels = inputs.pop("labels")
    model, attachment = without_noise(weight=3.0)

    def own_step() -> float:
        with attachment.own_loss(labels) as own:
            loss = own.total(torch.nn.functional.cross_entropy(model(**inputs).logits, labels))
        loss.backward()
        return loss.item()

    own_step()
    change(model)
    loss = own_step()
    expected, other = without_noise(weight=3.0)
    step(expected, {**inputs, "labels": labels})
    change(expected)
    assert loss == pytest.approx(step(expected, {**inputs, "labels": labels})[0], rel=1e-5)
    assert attachment.losses == pytest.approx(other.losses, rel=1e-5)


def test_labels_are_needed():
    inputs = batch("classification")
    del inputs["labels"]
    model, _ = without_noise()
    with pytest.raises(ConsistencyError, match="got no labels"):
        model(**inputs)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"kind": "js"}, "kind='js' means nothing with target='history'"),
        ({"backward": "both"}, "backward='both' means nothing"),
        ({"precision": "bfloat16"}, "precision='bfloat16' means nothing"),
        ({"on": "representation"}, "on='representation' means nothing"),
        ({"momentum": 1.0}, "momentum must be in"),
        ({"top": 0}, "top must be a whole number"),
    ],
)
def test_settings_that_contradict_the_history_are_refused(settings, fault):
    with pytest.raises(ConfigError, match=fault):
        DropoutConfig(consistency=Consistency(**{"target": "history", **settings}))


@pytest.mark.parametrize("settings", [{"momentum": 0.9}, {"top": 4}])
def test_a_second_pass_has_no_history(settings):
    with pytest.raises(ConfigError, match="is for target='history'"):
        DropoutConfig(consistency=Consistency(**settings))


@pytest.mark.parametrize(
    ("family", "task"), [("bert", "classification"), ("bert", "regression"), ("llama", "causal")]
)
def test_the_summary_says_what_the_store_takes(family, task):
    model = lora_model(family, task)
    attachment = hiddenkey.attach(model, config())
    inputs = batch(task, "right")
    step(model, inputs)
    units = (inputs["labels"][:, 1:] != -100).sum().item() if task == "causal" else 4
    unit = "labelled token" if task == "causal" else "example"
    each = attachment.history.bytes // units
    assert f"to each example's last prediction ({each} bytes per {unit})" in str(attachment)


def test_the_table_says_what_is_compared():
    assert hiddenkey.methods()["temporal"].compensation == "temporal kl loss"
    assert hiddenkey.methods()["temporal"].config.drops == ()
    noise = hiddenkey.methods()["hiddenkey-temporal"].config.drops
    assert noise == (
        Drop("attention_logits", "column", 0.1),
        Drop("hidden", "element", 0.1),
    )
