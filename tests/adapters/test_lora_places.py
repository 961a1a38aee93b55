"""LoRA on other layers than projections, and what is trained in full beside it."""

import math
from collections import OrderedDict

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoModelForCausalLM, MixtralConfig

import hiddenkey
from adapters.every import NOISE, peft_may_warn, two_passes
from hiddenkey import DropoutConfig
from hiddenkey.attachment import model_dropout
from models import assert_same_gradients, batch, gradients, lora_model, plain_model, seeded, step

# PEFT 0.21 asks transformers 5.23 for an attribute by its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
HIDDENKEY = hiddenkey.method("hiddenkey", rate=0.3)
KEY_VALUE = {"llama": ["k_proj", "v_proj"], "gpt2": ["c_attn"], "bert": ["key", "value"]}
EMBEDDINGS = {"llama": "embed_tokens", "gpt2": "wte", "bert": "word_embeddings"}
TASKS = {"llama": "causal", "gpt2": "causal", "bert": "classification"}
HEADS = {"llama": "lm_head", "gpt2": "lm_head", "bert": "classifier"}


def lora(family: str, *, tied: bool = False, **fields):
    """A model whose LoRA matrices are all random, equal each time."""
    more = {"tie_word_embeddings": tied} if family == "llama" else {}
    settings = {"target_modules": KEY_VALUE[family], "r": 4, "init_lora_weights": False, **fields}
    kind = "SEQ_CLS" if family == "bert" else "CAUSAL_LM"
    with seeded(1):
        config = LoraConfig(task_type=kind, fan_in_fan_out=family == "gpt2", **settings)
        return get_peft_model(plain_model(family, TASKS[family], **more), config).train()


def check(build, family: str, lm_loss: str = "auto") -> dict[str, torch.Tensor]:
    """Hold loss and gradients against two passes by hand; return the gradients."""
    inputs = batch(TASKS[family], "left" if family != "bert" else "right")
    expected = two_passes(model := build(), inputs)
    expected.backward()
    theirs = gradients(model)
    hiddenkey.attach(model, HIDDENKEY, lm_loss=lm_loss)
    loss, found = step(model, inputs)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(found, theirs, rtol=1e-3, atol=1e-5)
    return found


def saved(found: dict) -> set[str]:
    """Names of the modules that are trained in full, by their last part."""
    return {n.split(".modules_to_save")[0].split(".")[-1] for n in found if "to_save" in n}


@pytest.mark.parametrize("lm_loss", ["full", "chunked"])
@pytest.mark.parametrize("modules", [("lm_head",), ("embed",), ("lm_head", "embed")], ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_head_and_embeddings_that_are_trained_in_full(family, modules, lm_loss):
    names = [EMBEDDINGS[family] if name == "embed" else name for name in modules]
    with peft_may_warn():  # GPT-2's head and embeddings are one tensor until they are copied
        found = check(lambda: lora(family, modules_to_save=names), family, lm_loss)
    assert saved(found) == set(names)


def test_a_classifier_and_its_pooler_that_are_trained_in_full():
    found = check(lambda: lora("bert", modules_to_save=["classifier", "pooler"]), "bert")
    assert saved(found) == {"classifier", "pooler"}


@pytest.mark.parametrize("lm_loss", ["full", "chunked"])
@pytest.mark.parametrize("targets", [["lm_head"], ["k_proj", "lm_head", "embed_tokens"]], ids=str)
def test_lora_on_head_and_embeddings(targets, lm_loss):
    found = check(lambda: lora("llama", target_modules=targets), "llama", lm_loss)
    assert any("lm_head.lora_A" in name for name in found)
    assert any("lora_embedding" in name for name in found) == ("embed_tokens" in targets)


@pytest.mark.parametrize("lm_loss", ["full", "chunked"])
@pytest.mark.parametrize(
    "fields",
    [
        {"trainable_token_indices": [3, 4, 5, 6, 7, 8]},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {"modules_to_save": ["lm_head"]},
        {},
    ],
    ids=str,
)
def test_tied_embeddings(fields, lm_loss):
    with peft_may_warn():
        check(lambda: lora("llama", tied=True, **fields), "llama", lm_loss)


@pytest.mark.parametrize("targets", [["c_attn"], ["c_attn", "c_proj", "c_fc"]], ids=str)
def test_lora_on_transposed_layers(targets):
    check(lambda: lora("gpt2", target_modules=targets), "gpt2")


@pytest.mark.parametrize("family", KEY_VALUE)
def test_some_layers_and_ranks(family):
    last = KEY_VALUE[family][-1]
    found = check(lambda: lora(family, layers_to_transform=[1], rank_pattern={last: 2}), family)
    ranks = {len(g) for name, g in found.items() if f"{last}.lora_A" in name}
    assert ranks == {2}
    assert not any(".0." in name and "lora" in name for name in found)


@pytest.mark.parametrize("family", KEY_VALUE)
def test_loras_own_dropout_stays_on_beside_the_noise(family):
    """With the same masks of ours, another draw of LoRA's dropout gives other outputs."""
    inputs = batch(TASKS[family], "none")
    check(lambda: lora(family, lora_dropout=0.4), family)
    model = lora(family, lora_dropout=0.4)
    with hiddenkey.attach(model, DropoutConfig()):
        outputs = []
        for seed in (0, 0, 1):
            with seeded(seed):
                outputs.append(model(**inputs).logits)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])
    attachment = hiddenkey.attach(model, NOISE)
    for seed in range(20):
        with seeded(seed), torch.no_grad():
            model(**inputs)
    assert attachment.shares()["hidden/1"] == pytest.approx(0.3, abs=0.02)
    rates = {m.p for n, m in model.named_modules() if "lora_dropout" in n and hasattr(m, "p")}
    assert rates == {0.4}


def test_dropout_inside_what_an_adapter_is_put_around_is_the_models_own():
    """PEFT's adapter of nn.MultiheadAttention, whose rate is a number of the module inside."""
    model = nn.Sequential(OrderedDict(attention=nn.MultiheadAttention(8, 2, dropout=0.1)))
    config = LoraConfig(target_modules=["attention"], lora_dropout=0.0)
    adapted = get_peft_model(model, config).base_model.model
    inside = adapted.attention.base_layer
    settings = model_dropout.switch_off(adapted)
    assert inside.dropout == 0.0
    assert [setting.module for setting in settings] == [inside]
    model_dropout.restore(settings)
    assert inside.dropout == 0.1


def mixture(**fields):
    """A mixture of three experts; ``target_parameters`` puts LoRA on their stacked weights."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 3}
    config = MixtralConfig(vocab_size=60, initializer_range=0.2, **sizes, **heads)
    with seeded(0), peft_may_warn():
        model = AutoModelForCausalLM.from_config(config)
        lora = LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False, **fields)
        return get_peft_model(model, lora).train()


@pytest.mark.parametrize("lm_loss", ["full", "chunked"])
@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["k_proj", "v_proj"]},
        {"target_modules": [], "target_parameters": ["mlp.experts.down_proj"]},
        {
            "target_modules": ["v_proj"],
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        },
    ],
    ids=str,
)
def test_lora_on_parameters_of_experts_leaves_the_places_where_they_are(fields, lm_loss):
    found = check(lambda: mixture(**fields), "llama", lm_loss)
    wrapped = [name for name in found if "experts" in name]
    assert bool(wrapped) == ("target_parameters" in fields)
    with hiddenkey.attach(mixture(**fields), NOISE) as attachment:
        names = [site.name for site in attachment.sites if site.position == "hidden"]
    assert names == ["model.layers.0.mlp", "model.layers.1.mlp"]


@pytest.mark.parametrize("method", ["hiddenkey", "droplora", "coto"])
@pytest.mark.parametrize("how", ["plain", "checkpointing", "compiled"])
def test_a_model_in_evaluation_mode_whose_adapters_train(method, how):
    """PEFT leaves the layers that it adds so, whatever the mode of the model (peft#3753)."""
    model = lora_model("bert", feed_forward=True)
    transformer = model.get_base_model()
    if how == "checkpointing":
        model.activation_checkpointing_enable()
    inputs = batch()
    with hiddenkey.attach(model, method) as attachment:
        if how == "compiled":
            model = torch.compile(model, backend="eager")
        model.eval()
        expected, gradients_then = step(model, inputs)
        model.train()
        for module in transformer.modules():
            module.training = isinstance(module, LoraLayer)
        loss, found = step(model, inputs)
        assert all(math.isnan(share) for share in attachment.shares().values())
        assert loss == expected
        assert_same_gradients(found, gradients_then, rtol=0, atol=0)
        model.train()
        model(**inputs)
        assert not any(math.isnan(share) for share in attachment.shares().values())
