"""Finding layers, attention, feed-forward blocks and heads in real architectures."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, BertModel

import hiddenkey
from hiddenkey import AttachError, anatomy
from models import (
    ATTENTION,
    FAMILIES,
    FAMILY_TASKS,
    LAYER_STACK,
    SECOND_DENSE,
    batch,
    build,
    configuration,
    plain_model,
    seeded,
    step,
    transformer_in,
)


@pytest.mark.parametrize("peft", [False, True])
@pytest.mark.parametrize(("family", "task"), FAMILY_TASKS)
def test_parts_of_each_family(family, task, peft):
    more = {"feed_forward": True} if peft else {}
    model = build(family, task, peft=peft, layers=3, **more)
    transformer = anatomy.transformer_of(model)
    assert transformer is transformer_in(model)
    layers = anatomy.find_layers(transformer)
    stack = LAYER_STACK[family]
    assert [(p.layer, p.name) for p in layers] == [(n, f"{stack}.{n}") for n in range(3)]
    attention = anatomy.find_attention(layers)
    assert [p.name for p in attention] == [f"{stack}.{n}.{ATTENTION[family]}" for n in range(3)]
    dense = anatomy.find_feed_forward(transformer, layers, None)
    assert [p.name for p in dense] == [f"{stack}.{n}.{SECOND_DENSE[family]}" for n in range(3)]
    assert [p.layer for p in dense] == [0, 1, 2]
    for part in (*layers, *attention, *dense):
        assert transformer.get_submodule(part.name) is part.module
    if peft:
        assert all(hasattr(p.module, "base_layer") for p in dense)
    head = anatomy.find_head(transformer)
    names = {"bert": "classifier", "roberta": "classifier", "gpt2": "score", "llama": "score"}
    assert head.name == ("lm_head" if task == "causal" else names[family])
    assert head.module is getattr(transformer, head.name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stack_of_one_layer(family):
    layers = anatomy.find_layers(plain_model(family, layers=1))
    assert [p.name for p in layers] == [f"{LAYER_STACK[family]}.0"]


@pytest.mark.parametrize("peft", [False, True])
def test_a_call_of_the_whole_model_passes_the_transformers_hooks(peft):
    """What attaching relies on; older versions of PEFT called ``transformer.forward`` directly."""
    model = build("bert", "classification", peft=peft)
    seen = []
    transformer_in(model).register_forward_pre_hook(lambda *_: seen.append(1))
    model(**batch())
    assert seen == [1]


@pytest.mark.parametrize(
    ("family", "task", "expected"),
    [
        ("bert", "classification", "ForSequenceClassification"),
        ("bert", "regression", "ForSequenceClassification"),
        ("gpt2", "classification", "ForSequenceClassification"),
        ("gpt2", "causal", "ForCausalLM"),
        ("llama", "causal", "ForCausalLM"),
    ],
)
def test_tasks(family, task, expected):
    model = plain_model(family, task)
    assert anatomy.task_of(model) == expected
    for _ in range(2):  # also after the model has settled its problem_type
        assert anatomy.is_regression(model) is (task == "regression")
        step(model, batch(task))
    assert anatomy.is_regression(plain_model("bert", problem_type="regression"))


def test_attention_wider_than_the_model_does_not_confuse_the_feed_forward_search():
    """LLaMA with head_dim 16: the output projection maps 64 → 32, but it is inside attention."""
    model = plain_model("llama", head_dim=16)
    assert model.model.layers[0].self_attn.o_proj.in_features == 64
    found = anatomy.find_feed_forward(model, anatomy.find_layers(model), None)
    assert [p.name.split(".", 3)[-1] for p in found] == ["mlp.down_proj"] * 2


def test_a_feed_forward_block_as_wide_as_the_model_is_listed_and_can_be_named():
    model = plain_model("bert", intermediate_size=32)
    stack = "bert.encoder.layer"
    names = [f"attention.self.{n}" for n in ("query", "key", "value")]
    names += ["attention.output.dense", "intermediate.dense", "output.dense"]
    listed = ", ".join(rf"{stack}.0.{name} 32→32" for name in names)
    with pytest.raises(AttachError) as error:
        hiddenkey.attach(model, "hiddencut")
    assert str(error.value) == (
        "layer 0 must have exactly one linear layer to end its feed-forward block, found 0 among:"
        f" {listed}; name it with DropoutConfig(hidden_modules=<regular expression>)"
    )
    named = hiddenkey.DropoutConfig(
        hiddenkey.method("hiddencut", rate=0.5).drops,
        hidden_modules=r"bert\.encoder\.layer\.\d+\.output\.dense",
    )
    attachment = hiddenkey.attach(model, named)
    assert [s.name for s in attachment.sites] == [f"{stack}.{n}.output.dense" for n in (0, 1)]
    step(model, batch())
    assert attachment.shares()["hidden/1"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("pattern", "found"), [(r".*dense", 3), (r"output\.dense", 0), (r".*\.LayerNorm", 0)]
)
def test_hidden_modules_must_name_one_linear_layer_per_layer(pattern, found):
    model = plain_model("bert")
    config = hiddenkey.DropoutConfig(hiddenkey.method("hiddencut").drops, hidden_modules=pattern)
    with pytest.raises(AttachError) as error:
        hiddenkey.attach(model, config)
    assert f"to match hidden_modules={pattern!r}, found {found} among: bert." in str(error.value)


def test_the_search_goes_with_the_regular_expression_even_where_shape_would_tell():
    model = plain_model("bert")
    config = hiddenkey.DropoutConfig(
        hiddenkey.method("hiddencut").drops, hidden_modules=r".*intermediate\.dense"
    )
    sites = hiddenkey.attach(model, config).sites
    assert [s.name for s in sites] == [f"bert.encoder.layer.{n}.intermediate.dense" for n in (0, 1)]


def test_a_model_without_a_head():
    with seeded(0):
        model = BertModel(configuration("bert"))
    with pytest.raises(
        AttachError,
        match=r"no classifier or language-model head found in BertModel \(it has embeddings,"
        r" encoder, pooler\); load it with a head, for instance AutoModelForSequenceClassification",
    ):
        hiddenkey.attach(model, "output-dropout")
    hiddenkey.attach(model.train(), "hiddenkey-minus")  # the rest needs none
    inputs = batch()
    del inputs["labels"]
    assert model(**inputs).last_hidden_state.isfinite().all()


class Stackless(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.dense = nn.Linear(32, 32)

    def set_attn_implementation(self, name):
        raise AssertionError


def test_a_model_without_a_stack_of_layers():
    with pytest.raises(
        AttachError,
        match=r"^Stackless has no list of layers with attention in it; if modules",
    ):
        hiddenkey.attach(Stackless(configuration("bert")), "hiddencut")


def test_cross_attention_has_a_site_of_its_own():
    model = plain_model("gpt2", "causal", add_cross_attention=True)
    keys = [site.key for site in hiddenkey.attach(model, "dropkey").sites]
    assert keys == [f"attention_logits/{n}{end}" for n in (0, 1) for end in ("", "/cross")]
    drops = hiddenkey.method("dropkey").drops
    for kind, name in (("self", "attn"), ("cross", "crossattention")):
        config = hiddenkey.DropoutConfig(drops, attention=(kind,))
        sites = hiddenkey.attach(model, config).sites
        assert [site.name for site in sites] == [f"transformer.h.{n}.{name}" for n in (0, 1)]
        assert [site.key for site in sites] == ["attention_logits/0", "attention_logits/1"]


SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MORE = {
    "mistral": ({**SIZES, "num_key_value_heads": 2}, "mlp.down_proj", "self_attn"),
    "qwen2": ({**SIZES, "num_key_value_heads": 2}, "mlp.down_proj", "self_attn"),
    "qwen3": ({**SIZES, "num_key_value_heads": 2, "head_dim": 16}, "mlp.down_proj", "self_attn"),
    "gemma": (
        {**SIZES, "num_key_value_heads": 2, "head_dim": 16}, "mlp.down_proj", "self_attn"
    ),
    "phi": (SIZES, "mlp.fc2", "self_attn"),
    "gpt_neox": (SIZES, "mlp.dense_4h_to_h", "attention"),
    "opt": (
        {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32}, "fc2", "self_attn"
    ),
    "stablelm": ({**SIZES, "num_key_value_heads": 4}, "mlp.down_proj", "self_attn"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MORE)
def test_architectures_beyond_the_named_families(kind):
    """Found by shape; bit-equal in evaluation, and at rate 0 the same in training."""
    sizes, dense, attention = MORE[kind]
    with seeded(0):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(kind, **sizes), attn_implementation="sdpa"
        )
    inputs = batch("causal", "left")
    expected = model.eval()(**inputs).logits
    attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3))
    assert torch.equal(model(**inputs).logits, expected)
    assert {s.name.split(f".{s.layer}.")[-1] for s in attachment.sites} == {dense, attention}
    assert len(attachment.sites) == 4
    loss, found = step(model.train(), inputs)
    assert sum(attachment.losses.values()) == pytest.approx(loss)
    assert all(g.isfinite().all() for g in found.values())
    seen = inputs["attention_mask"].bool()
    hiddenkey.attach(model, hiddenkey.method("hiddenkey-minus", rate=0.0))
    torch.testing.assert_close(model(**inputs).logits[seen], expected[seen], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "dense"),
    [("distilbert", "ffn.lin2"), ("electra", "output.dense"), ("albert", "ffn_output"),
     ("vit", None)],
)  # fmt: skip
def test_more_encoders(kind, dense):
    sizes = {"distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}}
    config = AutoConfig.for_model(kind, **sizes.get(kind, SIZES))
    with seeded(0):
        model = AutoModel.from_config(config)
    attachment = hiddenkey.attach(model, "hiddenkey-minus")
    # albert has one set of weights for all layers
    assert len(attachment.sites) == (2 if kind == "albert" else 4)
    if dense:
        names = {s.name for s in attachment.sites if s.position == "hidden"}
        assert all(name.endswith(dense) for name in names)
