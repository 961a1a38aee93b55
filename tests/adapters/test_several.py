"""Several adapters on one model: switching, merging, removing, and none at all."""

import pytest
import torch
from peft import LoHaConfig, LoraConfig, get_peft_model

import hiddenkey
from adapters.every import NOISE, two_passes
from hiddenkey import AttachError
from hiddenkey.attachment.attachment import attachment_of
from models import assert_same_gradients, batch, gradients, plain_model, seeded, step

# PEFT 0.21 asks transformers 5.23 for an attribute by its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
HIDDENKEY = hiddenkey.method("hiddenkey", rate=0.3)
INPUTS = batch("causal", "left")


def lora(**fields) -> LoraConfig:
    settings = {"target_modules": ["k_proj", "v_proj"], "r": 4, "init_lora_weights": False}
    return LoraConfig(task_type="CAUSAL_LM", **{**settings, **fields})


def two_adapters(**fields):
    """A model with the adapters ``default``, which is active, and ``other``."""
    with seeded(1):
        model = get_peft_model(plain_model("llama", "causal"), lora(**fields))
        model.add_adapter("other", lora(**fields))
    return model.train()


def trained_names(found: dict) -> set[str]:
    return {name.split(".")[-2] for name in found}


def by_hand(model) -> tuple[float, dict]:
    model.zero_grad()
    loss = two_passes(model, INPUTS)
    loss.backward()
    return loss.item(), gradients(model)


@pytest.mark.parametrize("name", ["default", "other"])
def test_the_active_adapter_is_trained_whichever_it_is(name):
    model = two_adapters()
    model.set_adapter(name)
    expected, theirs = by_hand(model)
    hiddenkey.attach(model, HIDDENKEY)
    loss, found = step(model, INPUTS)
    assert trained_names(found) == {name}
    assert loss == pytest.approx(expected, rel=1e-5)
    assert_same_gradients(found, theirs, rtol=1e-3, atol=1e-5)


def test_switching_while_attached():
    expected = {}
    for name in ("default", "other"):
        model = two_adapters()
        model.set_adapter(name)
        expected[name], _ = by_hand(model)
    assert abs(expected["default"] - expected["other"]) > 1e-3
    model = two_adapters()
    hiddenkey.attach(model, HIDDENKEY)
    for name in ("default", "other", "default"):
        model.set_adapter(name)
        assert step(model, INPUTS)[0] == pytest.approx(expected[name], rel=1e-5)


def test_an_adapter_that_is_added_after_attaching():
    expected = two_adapters()
    expected.set_adapter("other")
    with seeded(1):
        model = get_peft_model(plain_model("llama", "causal"), lora()).train()
        hiddenkey.attach(model, HIDDENKEY)
        model.add_adapter("other", lora())
    model.set_adapter("other")
    assert step(model, INPUTS)[0] == pytest.approx(by_hand(expected)[0], rel=1e-5)


def test_two_active_adapters_are_trained_together():
    model = two_adapters()
    model.base_model.set_adapter(["default", "other"])
    expected, theirs = by_hand(model)
    hiddenkey.attach(model, HIDDENKEY)
    loss, found = step(model, INPUTS)
    assert trained_names(found) == {"default", "other"}
    assert loss == pytest.approx(expected, rel=1e-5)
    assert_same_gradients(found, theirs, rtol=1e-3, atol=1e-5)


def test_a_model_whose_adapters_are_switched_off_keeps_its_noise():
    """As trainers do that need the reference model's outputs."""
    model = two_adapters()
    plain = plain_model("llama", "causal")
    hiddenkey.attach(plain, NOISE)
    hiddenkey.attach(model, NOISE)
    with seeded(0), torch.no_grad():
        expected = plain(**INPUTS).logits
    with seeded(0), torch.no_grad(), model.disable_adapter():
        torch.testing.assert_close(model(**INPUTS).logits, expected)
        model.eval()
        torch.testing.assert_close(model(**INPUTS).logits, plain.eval()(**INPUTS).logits)


def test_batches_of_several_adapters_are_for_evaluation_and_stay_bit_equal():
    model = two_adapters().eval()
    names = ["default", "other", "__base__", "other"]
    with torch.no_grad():
        expected = model(**INPUTS, adapter_names=names).logits
        hiddenkey.attach(model, HIDDENKEY)
        assert torch.equal(model(**INPUTS, adapter_names=names).logits, expected)
    with pytest.raises(ValueError, match="adapter_names` when the model is in training mode"):
        model.train()(**INPUTS, adapter_names=names)
    assert step(model, INPUTS)[0] > 0  # nothing is left armed after the failed call


def test_an_adapter_may_be_deleted():
    model = two_adapters()
    model.set_adapter("other")
    expected, _ = by_hand(model)
    hiddenkey.attach(model, HIDDENKEY)
    model.delete_adapter("default")
    assert step(model, INPUTS)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("targets", [["k_proj", "v_proj"], ["k_proj", "down_proj"]], ids=str)
def test_merged_in_place_the_noise_and_the_outputs_stay(targets):
    model = two_adapters(target_modules=targets)
    hiddenkey.attach(model, HIDDENKEY)
    before, theirs = step(model, INPUTS)
    logits = model.eval()(**INPUTS).logits
    model.merge_adapter()
    torch.testing.assert_close(model(**INPUTS).logits, logits, rtol=1e-4, atol=1e-5)
    with seeded(0):
        assert model.train()(**INPUTS).loss.item() == pytest.approx(before, rel=1e-4)
    model.unmerge_adapter()
    loss, found = step(model, INPUTS)
    assert loss == pytest.approx(before, rel=1e-4)
    assert_same_gradients(found, theirs, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("unload", ["merge_and_unload", "unload"])
def test_unloading_replaces_modules_so_training_is_refused_until_attached_again(unload):
    model = two_adapters(target_modules=["k_proj", "down_proj"])
    attachment = hiddenkey.attach(model, HIDDENKEY)
    bare = getattr(model, unload)()
    bare.eval()(**INPUTS)
    with pytest.raises(AttachError, match=r"mlp\.down_proj was replaced after attach"):
        bare.train()(**INPUTS)
    again = hiddenkey.attach(bare.requires_grad_(True), HIDDENKEY)
    assert attachment_of(bare) is again is not attachment
    assert step(bare, INPUTS)[0] == pytest.approx(by_hand(bare)[0], rel=1e-5)


def test_unloading_what_has_no_noise_goes_on():
    model = two_adapters()
    hiddenkey.attach(model, HIDDENKEY)
    before, _ = step(model, INPUTS)
    bare = model.merge_and_unload().train().requires_grad_(True)
    assert step(bare, INPUTS)[0] == pytest.approx(before, rel=1e-4)


def test_an_adapter_on_modules_that_drop_comes_before_attaching():
    model = two_adapters()
    hiddenkey.attach(model, HIDDENKEY)
    model.add_adapter("wide", lora(target_modules=["down_proj"]))
    with pytest.raises(AttachError, match="attach after get_peft_model"):
        model(**INPUTS)
    hiddenkey.attach(model, HIDDENKEY)
    assert step(model, INPUTS)[0] > 0


@pytest.mark.parametrize(("family", "task"), [("llama", "causal"), ("bert", "classification")])
def test_full_fine_tuning_without_peft(family, task):
    inputs = batch(task, "left")
    expected = two_passes(model := plain_model(family, task), inputs)
    expected.backward()
    theirs = gradients(model)
    hiddenkey.attach(model, HIDDENKEY)
    loss, found = step(model, inputs)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(found, theirs, rtol=1e-3, atol=1e-5)
    assert len(found) == len(list(model.parameters()))


def test_transformers_own_way_to_add_an_adapter():
    model = plain_model("llama", "causal")
    try:
        with seeded(1):
            model.add_adapter(lora())
    except ValueError as refusal:  # transformers wants a later PEFT
        pytest.skip(str(refusal))
    expected, _ = by_hand(model)
    hiddenkey.attach(model, HIDDENKEY)
    loss, found = step(model, INPUTS)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert len(found) == 8


def test_adapters_of_several_types_at_once():
    """PEFT's mixed model is no PeftModel, and passes every attribute on."""
    with seeded(1):
        model = get_peft_model(plain_model("llama", "causal"), lora(), mixed=True)
        model.add_adapter("loha", LoHaConfig(target_modules=["q_proj", "down_proj"], r=4))
    model.set_adapter(["default", "loha"])
    model.train()
    expected, theirs = by_hand(model)
    hiddenkey.attach(model, HIDDENKEY)
    loss, found = step(model, INPUTS)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert_same_gradients(found, theirs, rtol=1e-3, atol=1e-5)
    assert len(found) == 8 + 16  # A and B of four modules, two pairs of factors of four
