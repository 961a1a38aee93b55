"""Modules inside of the layers that PEFT holds in copies (``modules_to_save``): the one in use."""

import re

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model

import hiddenkey
from hiddenkey import AttachError, anatomy
from hiddenkey.anatomy.part import all_copies, plain_name
from models import (
    assert_same_gradients,
    batch,
    gradients,
    plain_model,
    run,
    seeded,
    snapshot,
    step,
)

# PEFT 0.21 asks transformers 5.23 for an attribute by its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
RATE = 0.3
HIDDENKEY = hiddenkey.method("hiddenkey", rate=RATE)
COPY = "modules_to_save.default"

# family, task, what is saved, names of the attention and feed-forward sites in layer 0
CASES = [
    ("llama", "causal", "mlp", "self_attn", f"mlp.{COPY}.down_proj"),
    ("llama", "causal", "down_proj", "self_attn", f"mlp.down_proj.{COPY}"),
    ("llama", "causal", "self_attn", f"self_attn.{COPY}", "mlp.down_proj"),
    ("llama", "causal", "input_layernorm", "self_attn", "mlp.down_proj"),
    ("llama", "causal", "layers.0", f"{COPY}.self_attn", f"{COPY}.mlp.down_proj"),
    ("bert", "classification", "output", "attention.self", f"output.{COPY}.dense"),
    ("bert", "classification", "output.dense", "attention.self", f"output.dense.{COPY}"),
    ("bert", "classification", "attention", f"attention.{COPY}.self", "output.dense"),
    ("bert", "classification", "self", f"attention.self.{COPY}", "output.dense"),
]
IDS = [f"{case[0]}-{case[2]}" for case in CASES]
ALL = pytest.mark.parametrize(("family", "task", "saved", "attention", "hidden"), CASES, ids=IDS)
SAVED = pytest.mark.parametrize("saved", ["mlp", "down_proj", "self_attn"])


def settings(family: str, task: str, saved: str) -> LoraConfig:
    kind = TaskType.CAUSAL_LM if task == "causal" else TaskType.SEQ_CLS
    targets = {"bert": ["word_embeddings"], "llama": ["embed_tokens"]}[family]
    return LoraConfig(task_type=kind, target_modules=targets, r=2, modules_to_save=[saved])


def saving(family: str, task: str, saved: str, name: str = "default"):
    """A model that computes what the plain one does: its LoRA is zero, its copies are equal."""
    model = plain_model(family, task, dropout=0.0)
    return get_peft_model(model, settings(family, task, saved), adapter_name=name).train()


def two_adapters(saved: str):
    """A model with the adapters ``default``, which is active, and ``other``, of other weights."""
    model = saving("llama", "causal", saved)
    model.add_adapter("other", settings("llama", "causal", saved))
    with seeded(1), torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save.other" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.train()


def plain(name: str) -> str:
    return plain_name(name).removeprefix("base_model.model.")


@ALL
def test_there_is_one_site_at_the_copy_in_use(family, task, saved, attention, hidden):
    model = saving(family, task, saved)
    transformer = anatomy.transformer_of(model)
    sites = {site.key: site.name for site in hiddenkey.attach(model, HIDDENKEY).sites}
    stack = {"llama": "model.layers", "bert": "bert.encoder.layer"}[family]
    assert sites["attention_logits/0"] == f"{stack}.0.{attention}"
    assert sites["hidden/0"] == f"{stack}.0.{hidden}"
    assert len(sites) == 4
    reference = plain_model(family, task)
    expected = {site.key: site.name for site in hiddenkey.attach(reference, HIDDENKEY).sites}
    assert {key: plain_name(name) for key, name in sites.items()} == expected
    for name in sites.values():
        used = transformer.get_submodule(name)
        assert used is all_copies(transformer, name)[0]
        assert COPY not in name or all(parameter.requires_grad for parameter in used.parameters())


@ALL
def test_a_step_is_that_of_the_plain_model(family, task, saved, attention, hidden):
    """The same masks at the same places, once: equal losses, shares and gradients."""
    reference, model = plain_model(family, task, dropout=0.0), saving(family, task, saved)
    inputs = batch(task, "left", size=8)
    there = hiddenkey.attach(reference, HIDDENKEY)
    here = hiddenkey.attach(model, HIDDENKEY)
    loss, expected = step(reference, inputs)
    found, own = step(model, inputs)
    assert found == loss
    shares = here.shares()
    assert shares == there.shares()
    assert all(share == pytest.approx(RATE, abs=0.15) for share in shares.values())
    own = {plain(name): gradient for name, gradient in own.items() if COPY in name}
    assert any(re.search(rf"\.{saved}\.", name) for name in own)
    assert_same_gradients(own, {name: expected[name] for name in own}, rtol=0, atol=0)


@ALL
def test_without_noise_it_is_the_plain_model(family, task, saved, attention, hidden):
    reference, model = plain_model(family, task, dropout=0.0), saving(family, task, saved)
    inputs = batch(task, "left")
    expected = run(reference, inputs).logits
    run(model, inputs)
    before = snapshot(model)
    attachment = hiddenkey.attach(model, HIDDENKEY)
    assert not torch.equal(run(model, inputs).logits, expected)
    attachment.set_rates(dict.fromkeys(attachment.rates, 0.0))
    assert torch.equal(run(model, inputs).logits, expected)
    attachment.set_rates(dict.fromkeys(attachment.rates, RATE))
    assert torch.equal(run(model.eval(), inputs).logits, run(reference.eval(), inputs).logits)
    model.train()
    step(model, inputs)
    attachment.detach()
    assert snapshot(model) == before
    assert torch.equal(run(model, inputs).logits, expected)


@SAVED
def test_another_adapters_copy_has_the_same_noise(saved):
    inputs = batch("causal", "left")
    expected = {}
    for name in ("default", "other"):
        model = two_adapters(saved)
        model.set_adapter(name)
        hiddenkey.attach(model, HIDDENKEY)
        expected[name] = step(model, inputs)[0]
    assert abs(expected["default"] - expected["other"]) > 1e-3
    model = two_adapters(saved)
    attachment = hiddenkey.attach(model, HIDDENKEY)
    for name in ("default", "other", "default"):
        model.set_adapter(name)
        model.zero_grad()
        with seeded(0):
            loss = model(**inputs).loss
        loss.backward()
        assert loss.item() == expected[name]
        trained = {n for n in gradients(model) if "modules_to_save" in n}
        assert trained
        assert all(f"modules_to_save.{name}." in parameter for parameter in trained)
        assert all(share == pytest.approx(RATE, abs=0.2) for share in attachment.shares().values())


@SAVED
def test_the_original_runs_while_adapters_are_switched_off_and_is_not_trained(saved):
    """As trainers do that need the reference model's outputs."""
    model = two_adapters(saved)
    attachment = hiddenkey.attach(model, HIDDENKEY)
    reference = plain_model("llama", "causal").eval()
    inputs = batch("causal", "left")
    with torch.no_grad(), model.disable_adapter():
        assert torch.isfinite(model(**inputs).logits).all()
        assert torch.equal(model.eval()(**inputs).logits, reference(**inputs).logits)
    with pytest.raises(AttachError, match="in use"), model.train().disable_adapter():
        model(**inputs)
    attachment.shares()
    step(model, inputs)
    assert all(share > 0 for share in attachment.shares().values())


@SAVED
def test_an_adapter_whose_copy_came_after_attach_is_refused_when_it_is_set(saved):
    model = saving("llama", "causal", saved)
    inputs = batch("causal")
    step(model, inputs)
    before = snapshot(model)
    attachment = hiddenkey.attach(model, HIDDENKEY)
    step(model, inputs)
    model.add_adapter("other", settings("llama", "causal", saved))
    step(model, inputs)
    model.set_adapter("other")
    with pytest.raises(AttachError, match=rf"another copy of \S+{saved}\S* than attach found is i"):
        model(**inputs)
    attachment.detach()
    after = {name: value for name, value in snapshot(model).items() if ".other" not in name}
    assert after.keys() <= before.keys()
    attachment = hiddenkey.attach(model, HIDDENKEY)
    assert sum("modules_to_save.other" in site.name for site in attachment.sites) == 2
    step(model, inputs)


def test_another_copy_of_a_whole_layer_is_refused():
    model = two_adapters("layers.0")
    hiddenkey.attach(model, hiddenkey.method("hiddencut", rate=RATE))
    model.set_adapter("other")
    with pytest.raises(
        AttachError, match=r"another copy of model.layers.0.modules_to_save.default"
    ):
        model(**batch("causal"))


@pytest.mark.parametrize("name", ["router_adapter", "attention", "experts"])
def test_the_name_of_an_adapter_says_nothing_about_a_module(name):
    model = saving("llama", "causal", "mlp", name)
    attachment = hiddenkey.attach(model, HIDDENKEY)
    expected = hiddenkey.attach(plain_model("llama", "causal"), HIDDENKEY)
    names = [plain_name(site.name) for site in attachment.sites]
    assert names == [site.name for site in expected.sites]


def test_a_users_pattern_may_give_plain_names():
    named = hiddenkey.DropoutConfig(
        HIDDENKEY.drops,
        attention_modules=r"model\.layers\.\d+\.self_attn",
        hidden_modules=r"model\.layers\.\d+\.mlp\.down_proj",
    )
    for saved in ("mlp", "self_attn"):
        sites = hiddenkey.attach(saving("llama", "causal", saved), named).sites
        assert len(sites) == 4
        assert any(COPY in site.name for site in sites)


def test_trainable_tokens_are_walked_like_an_adapter():
    tokens = LoraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj"], r=2, trainable_token_indices=[3, 4]
    )
    model = get_peft_model(plain_model("llama", "causal"), tokens)
    whole = anatomy.Part(None, "", anatomy.transformer_of(model))
    inside = [p.name for p in anatomy.walk(whole) if p.name.startswith("model.embed_tokens")]
    assert inside == ["model.embed_tokens"]
    hiddenkey.attach(model, HIDDENKEY)
    step(model.train(), batch("causal"))
