"""Whose earlier prediction it is: examples are recognised by their content or their number."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

import hiddenkey
from earlier_passes import change, without_noise
from hiddenkey import ConsistencyError
from models import batch, kl_by_hand, lora_model, plain_model, seeded, step


@pytest.mark.parametrize("task", ["classification", "causal"])
def test_examples_are_recognised_in_another_order_and_with_other_padding(task):
    family = "llama" if task == "causal" else "bert"
    inputs = batch(task, "right", tokens=9)
    order = torch.tensor([2, 0, 3, 1])
    wider = {
        name: torch.cat([value, torch.full((4, 2), -100 if name == "labels" else 0)], 1)
        if value.dim() == 2
        else value
        for name, value in inputs.items()
    }
    model, attachment = without_noise(task, family)
    step(model, inputs)
    change(model)
    step(model, inputs)
    expected = attachment.losses["consistency"]
    again, other = without_noise(task, family)
    step(again, inputs)
    change(again)
    step(again, {name: value[order] for name, value in wider.items()})
    assert expected > 1e-4
    assert other.losses["consistency"] == pytest.approx(expected, rel=1e-4)
    assert len(other.history) == 4
    assert other.history.recognised == 4


def test_only_examples_that_were_seen_are_compared():
    """The mean is over the whole batch, in which new examples count 0."""
    inputs = batch("classification", "right", size=8)
    first, all_of_them = {n: v[:4] for n, v in inputs.items()}, inputs
    model, attachment = without_noise()
    step(model, first)
    change(model)
    step(model, first)
    expected = attachment.losses["consistency"]
    model, attachment = without_noise()
    step(model, first)
    change(model)
    step(model, all_of_them)
    assert attachment.losses["consistency"] == pytest.approx(expected / 2, rel=1e-4)
    assert len(attachment.history) == 8


def test_numbers_of_the_script_reach_the_loss_and_not_the_model():
    inputs = batch("classification", "right")
    model, attachment = without_noise()
    numbers = torch.tensor([10, 11, 12, 13])
    step(model, {**inputs, "example_index": numbers})
    change(model)
    step(model, {**inputs, "example_index": numbers})
    assert attachment.losses["consistency"] > 1e-4
    assert attachment.history.state_dict()["keys"].tolist() == [10, 11, 12, 13]
    model.eval()(**inputs, example_index=numbers)


def test_a_number_that_repeats_is_refused():
    inputs = batch("classification", "right")
    model, _ = without_noise()
    with pytest.raises(ConsistencyError, match="example_index 7 stands for two different examples"):
        step(model, {**inputs, "example_index": torch.tensor([7, 8, 7, 9])})


def test_a_data_set_that_changes_under_its_numbers_is_refused():
    model, _ = without_noise()
    numbers = torch.arange(4)
    step(model, {**batch("classification", seed=0), "example_index": numbers})
    with pytest.raises(ConsistencyError, match="or the data set changed between epochs"):
        step(model, {**batch("classification", seed=1), "example_index": numbers})


@pytest.mark.parametrize("numbers", [torch.arange(3), torch.rand(4), torch.zeros(4, 1).long()])
def test_one_whole_number_for_each_example_is_needed(numbers):
    model, _ = without_noise()
    with pytest.raises(ConsistencyError, match="one whole number for each of the 4 examples"):
        step(model, {**batch("classification"), "example_index": numbers})


@pytest.mark.parametrize("lm_loss", ["full", "chunked"])
def test_a_text_with_other_labelled_tokens_is_another_example(lm_loss):
    inputs = batch("causal", "right")
    model, attachment = without_noise("causal", "llama", lm_loss=lm_loss)
    step(model, inputs)
    fewer = {**inputs, "labels": inputs["labels"].clone()}
    fewer["labels"][0, :4] = -100
    step(model, fewer)
    assert len(attachment.history) == 5
    assert attachment.history.recognised == 3


def test_an_endless_stream_is_refused_when_the_store_is_full(monkeypatch):
    monkeypatch.setattr("hiddenkey.step.history.LARGEST_GIB", 30 * 12 / 2**30)
    model, _ = without_noise()
    step(model, batch("classification", seed=0))
    # 256 rows are made room for at once; 30 may be in use
    for seed in range(1, 7):
        step(model, batch("classification", seed=seed))
    with pytest.raises(ConsistencyError, match="a streamed data set without end never repeats"):
        step(model, batch("classification", seed=7))


def test_the_hash_depends_on_order_and_content_alone():
    model, attachment = without_noise()
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7, 0], [7, 6, 5, 0], [0, 5, 6, 7], [5, 6, 8, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 0]]),
        "labels": torch.zeros(4, dtype=torch.long),
    }
    step(model, inputs)
    keys = attachment.history.state_dict()["keys"].tolist()
    assert len(keys) == 3
    del inputs["attention_mask"]  # then the padding token tells
    step(model, inputs)
    assert attachment.history.state_dict()["keys"].tolist() == keys


@pytest.mark.parametrize("numbered", [False, True])
def test_each_adapter_has_predictions_of_its_own(numbered):
    """Two adapters that take turns are two models; so is the one that both are added to."""
    model = lora_model("bert")
    with seeded(3):
        model.add_adapter("other", LoraConfig(target_modules=["value"], init_lora_weights=False))
    model.train()
    inputs = batch() | ({"example_index": torch.arange(4)} if numbered else {})
    logits, divergences = {}, []
    with hiddenkey.attach(model, "temporal") as attachment:
        for name in ("default", "other", "none", "default", "other", "none"):
            if name != "none":
                model.set_adapter(name)
            with model.disable_adapter() if name == "none" else nullcontext():
                now = model(**inputs).logits
            divergences.append(attachment.losses["consistency"])
            if name in logits:
                expected = kl_by_hand(now, logits[name]).mean().item()
                assert divergences[-1] == pytest.approx(expected, rel=1e-4, abs=1e-9)
            logits[name] = now.detach()
            change(model)
    assert divergences[:3] == [0.0] * 3
    assert all(each > 1e-5 for each in divergences[3:5])  # the frozen model is the same again


def test_an_example_that_is_twice_in_a_batch_is_recognised_twice():
    inputs = {name: torch.cat([each, each]) for name, each in batch("classification").items()}
    model, attachment = without_noise()
    for _ in range(2):
        step(model, inputs)
    assert (attachment.history.visits, attachment.history.recognised) == (16, 8)


@pytest.mark.parametrize("kind", [PrefixTuningConfig, PromptTuningConfig])
def test_prompts_that_take_turns_have_predictions_of_their_own(kind):
    """They leave no module in the model that would tell them apart."""
    settings = kind(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = get_peft_model(plain_model("llama", "causal"), settings, adapter_name="a")
    model.add_adapter("b", settings)
    with torch.no_grad(), seeded(3):
        for name, weight in model.named_parameters():
            if "prompt_encoder" in name:
                weight.normal_(0, 2)
    model.train()
    inputs = batch("causal") | {"example_index": torch.arange(4)}
    with hiddenkey.attach(model, "temporal") as attachment:
        for name in ("a", "a", "b", "a", "b"):
            model.set_adapter(name)
            step(model, inputs)
            assert attachment.losses["consistency"] == pytest.approx(0, abs=1e-6), name
        assert len(attachment.history) == 8


def two_adapters():
    model = lora_model("bert")
    with seeded(3):
        model.add_adapter("other", LoraConfig(target_modules=["value"], init_lora_weights=False))
    return model.train()


def divergences(model, attachment, names=("default", "other")):
    found = {}
    for name in names:
        model.set_adapter(name)
        step(model, batch())
        found[name] = attachment.losses["consistency"]
    return found


@pytest.mark.parametrize("active", ["default", "other"])
def test_stored_predictions_are_those_of_the_adapters_by_name(active):
    """Whichever of them acts when a resumed training attaches."""
    model = two_adapters()
    attachment = hiddenkey.attach(model, "temporal")
    divergences(model, attachment)
    state = attachment.history.state_dict()
    again = two_adapters()
    again.set_adapter(active)
    attachment = hiddenkey.attach(again, "temporal")
    attachment.history.load_state_dict(state)
    assert max(divergences(again, attachment).values()) == pytest.approx(0, abs=1e-9)
    assert attachment.history.recognised == 8


@pytest.mark.parametrize("stored", [True, False])
def test_a_single_adapter_may_have_another_name_when_it_goes_on(stored):
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, "temporal")
    step(model, batch())
    state = attachment.history.state_dict()
    if not stored:  # by a version that did not say whose predictions they are
        del state["adapters"]
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    again = get_peft_model(plain_model("bert"), model.peft_config["default"], adapter_name="mine")
    for name, weight in again.named_parameters():
        weight.data.copy_(weights[name.replace(".mine.", ".default.")])
    attachment = hiddenkey.attach(again.train(), "temporal")
    attachment.history.load_state_dict(state)
    step(again, batch())
    assert attachment.history.recognised == 4
    assert attachment.losses["consistency"] == pytest.approx(0, abs=1e-6)


def test_an_adapter_that_stays_is_not_taken_for_one_that_was_deleted():
    model = two_adapters()
    attachment = hiddenkey.attach(model, "temporal")
    step(model, batch())
    model.set_adapter("other")
    model.delete_adapter("default")
    for seen in (0, 4):
        step(model, batch())
        assert attachment.history.recognised == seen
        assert attachment.losses["consistency"] == pytest.approx(0, abs=1e-9)


def test_the_model_below_is_not_taken_for_the_adapter_that_acts_next():
    """An attachment that began while adapters were disabled."""
    model = two_adapters()
    with model.disable_adapter():
        attachment = hiddenkey.attach(model, "temporal")
        model(**batch())
    step(model, batch())
    assert attachment.history.recognised == 0
    with model.disable_adapter():
        model(**batch())
    assert attachment.history.recognised == 4
