"""What attach refuses: one sentence with the rule, the value and the next step, and no trace."""

import re

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

import hiddenkey
from hiddenkey import AttachError, ConfigError, Consistency, Drop, DropoutConfig
from hiddenkey.attention import dispatch
from models import (
    FAMILIES,
    assert_same_gradients,
    batch,
    lora_model,
    plain_model,
    run,
    seeded,
    snapshot,
    step,
    with_lora,
)


def exactly(text: str) -> str:
    return f"^{re.escape(text)}$"


PEFT_FIRST = "attach after get_peft_model and after every other change of the model$"


def outside_the_registry(kind: str):
    sizes = {"vocab_size": 60, "hidden_size": 32, "pad_token_id": 0}
    own = {
        "bloom": {"n_layer": 2, "n_head": 4},
        "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 48},
        "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 48},
    }
    with seeded(0):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **own[kind]))


@pytest.mark.parametrize("thing", [nn.Linear(2, 2), nn.Sequential(plain_model("bert"))])
def test_something_that_is_no_model(thing):
    with pytest.raises(
        AttachError,
        match=exactly(
            "attach needs a transformers PreTrainedModel or a PeftModel around one, got"
            f" {type(thing).__name__}; pass the model that from_pretrained or get_peft_model gave,"
            " before any other wrapper"
        ),
    ):
        hiddenkey.attach(thing, "hiddenkey")


def test_an_unknown_method():
    model = plain_model("bert")
    with pytest.raises(ConfigError, match=r"^method must be one of .*, got 'hidenkey'; did you mean"
                       r" 'hiddenkey'\?$"):  # fmt: skip
        hiddenkey.attach(model, "hidenkey")


def test_an_encoder_decoder():
    config = AutoConfig.for_model(
        "t5", vocab_size=60, d_model=32, d_ff=64, d_kv=8, num_layers=2, num_heads=4,
    )  # fmt: skip
    with seeded(0):
        model = AutoModelForSeq2SeqLM.from_config(config)
    with pytest.raises(
        AttachError,
        match=exactly(
            "T5ForConditionalGeneration is an encoder-decoder, which is not supported yet; use an"
            " encoder or a decoder"
        ),
    ):
        hiddenkey.attach(model, "hiddencut")


def test_all_misfits_of_a_configuration_come_together():
    model = lora_model("bert", "regression", layers=3)
    config = DropoutConfig(
        (Drop("attention_logits", "element", 0.1),), Consistency(on="logits"), layers=(0, 3, 7)
    )
    with pytest.raises(ConfigError) as error:
        hiddenkey.attach(model, config, kernel="fused")
    assert error.value.faults == (
        "kernel='fused' cannot serve this configuration: pattern 'element' differs from query to"
        " query; use 'auto'",
        "layers must be below 3, the number of layers of this model, got 3",
        "layers must be below 3, the number of layers of this model, got 7",
        "consistency.on='logits' means nothing for regression, whose single logit has a softmax of"
        " 1; use 'representation' or 'auto'",
    )


@pytest.mark.parametrize(
    ("drops", "settings", "reason"),
    [
        (
            (Drop("attention_logits", "element", 0.1),),
            {},
            "pattern 'element' differs from query to query",
        ),
        (
            (Drop("attention_logits", "column", 0.1), Drop("attention_weights", "column", 0.1)),
            {},
            "it serves one attention position at a time",
        ),
        (
            (Drop("attention_weights", "column", 0.1, "inverse"),),
            {},
            "rescale 'inverse' does not renormalise",
        ),
        (
            (Drop("attention_logits", "column", 0.1),),
            {"keep_model_dropout": True},
            "keep_model_dropout=True leaves the model's own attention dropout on",
        ),
    ],
)
def test_what_the_fused_kernel_does_not_serve(drops, settings, reason):
    model = plain_model("bert")
    config = DropoutConfig(drops, **settings)
    with pytest.raises(
        ConfigError,
        match=exactly(f"kernel='fused' cannot serve this configuration: {reason}; use 'auto'"),
    ):
        hiddenkey.attach(model, config, kernel="fused")
    assert {s.kernel for s in hiddenkey.attach(model, config).sites} == {"reference"}


def test_an_unknown_kernel():
    with pytest.raises(
        ConfigError,
        match=exactly(
            "kernel must be one of auto, reference, fused, got 'fuse'; did you mean 'fused'?"
        ),
    ):
        hiddenkey.attach(plain_model("bert"), "dropkey", kernel="fuse")


def test_multi_label_classification_with_a_consistency_loss():
    model = plain_model("bert", problem_type="multi_label_classification")
    with pytest.raises(
        ConfigError,
        match=exactly(
            "the consistency loss compares one distribution over classes, got"
            " problem_type='multi_label_classification'; set consistency=None"
        ),
    ):
        hiddenkey.attach(model, "hiddenkey")
    hiddenkey.attach(model, "hiddenkey-minus")
    run(model, {**batch(), "labels": torch.rand(4, 3).round()})


def test_a_task_without_a_consistency_loss():
    from transformers import AutoModelForQuestionAnswering

    config = plain_model("bert").config
    model = AutoModelForQuestionAnswering.from_config(config)
    with pytest.raises(
        ConfigError,
        match=exactly(
            "the consistency loss works on ForSequenceClassification, ForCausalLM, ForMaskedLM,"
            " ForTokenClassification, got a model for ForQuestionAnswering; set consistency=None"
        ),
    ):
        hiddenkey.attach(model, "hiddenkey")
    hiddenkey.attach(model, "hiddenkey-minus")


@pytest.mark.parametrize("method", ["dropkey", "dropattention", "hiddenkey"])
@pytest.mark.parametrize("kind", ["bloom", "mpt", "gptj"])
def test_a_model_whose_attention_cannot_be_reached(kind, method):
    model = outside_the_registry(kind)
    before = snapshot(model)
    with pytest.raises(
        AttachError,
        match=exactly(
            f"{type(model).__name__} computes the attention of layers 0, 1 outside transformers'"
            " attention interface, so its keys cannot be dropped; use a method without attention"
            " drops, such as 'hiddencut'"
        ),
    ):
        hiddenkey.attach(model, method)
    assert snapshot(model) == before


@pytest.mark.parametrize("kind", ["bloom", "mpt", "gptj"])
def test_hiddencut_works_where_attention_cannot_be_reached(kind):
    model = outside_the_registry(kind)
    inputs = batch("causal")
    expected = model.eval()(**inputs).logits
    attachment = hiddenkey.attach(model, hiddenkey.method("hiddencut-element", rate=0.3))
    assert torch.equal(model(**inputs).logits, expected)
    model.train()
    assert not torch.allclose(run(model, inputs).logits, expected, atol=1e-3)
    for share in attachment.shares().values():
        assert share == pytest.approx(0.3, abs=0.05)
    assert len(attachment.sites) == 2


@pytest.mark.parametrize(
    "name", ["flash_attention_2", "flex_attention", "paged|sdpa", "somebody_elses"]
)
def test_attention_implementations_that_are_not_supported(name):
    model = plain_model("llama", "causal")
    model.config._attn_implementation_internal = name
    before = snapshot(model)
    message = exactly(
        "attention drops work on the attention implementations sdpa, eager; this model uses"
        f" {name!r}; load it with attn_implementation='sdpa'"
    )
    with pytest.raises(AttachError, match=message):
        hiddenkey.attach(model, "hiddenkey")
    assert snapshot(model) == before
    hiddenkey.attach(model, "hiddencut").detach()
    assert snapshot(model) == before


def test_eager_gpt2_with_upcast_attention():
    settings = {"reorder_and_upcast_attn": True}
    model = plain_model("gpt2", "causal", attention="eager", **settings)
    with pytest.raises(
        AttachError,
        match=r"^reorder_and_upcast_attn=True bypasses transformers' attention interface",
    ):
        hiddenkey.attach(model, "dropkey")
    hiddenkey.attach(plain_model("gpt2", "causal", attention="sdpa", **settings), "dropkey")


def test_a_model_that_does_not_follow_the_setting():
    model = plain_model("bert")
    before = snapshot(model)
    model._can_set_attn_implementation = lambda: False
    with pytest.raises(
        AttachError,
        match=r"^BertForSequenceClassification computes attention outside transformers' attention"
        r" interface, so keys cannot be dropped; use a method without attention drops, such as"
        r" 'hiddencut'$",
    ):
        hiddenkey.attach(model, "dropkey")
    del model._can_set_attn_implementation
    assert snapshot(model) == before


GEMMA2 = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
}


@pytest.mark.parametrize(
    ("kind", "meaning"), [("gemma2", r"logit soft-capping \(softcap\)"), ("gpt_oss", "s_aux")]
)
def test_attention_with_more_than_masks_is_refused(kind, meaning):
    """Soft caps of Gemma 2, sinks of GPT-OSS."""
    sizes = {**GEMMA2, "num_local_experts": 2, "num_experts_per_tok": 1}
    with seeded(0):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(kind, **sizes), attn_implementation="eager"
        ).train()
    before = snapshot(model)
    with pytest.raises(AttachError, match=rf"passes .*{meaning}.* to its attention, which attention"
                       r" drops do not support yet; use a method without them"):  # fmt: skip
        hiddenkey.attach(model, "dropkey")
    assert snapshot(model) == before


def test_an_argument_that_the_code_does_not_show_is_refused_in_training(monkeypatch):
    """The safety net behind the look at the code."""
    monkeypatch.setattr(dispatch, "_refuse_by_code", lambda module: None)
    with seeded(0):
        config = AutoConfig.for_model("gemma2", **GEMMA2)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").train()
    hiddenkey.attach(model, "dropkey")
    with pytest.raises(AttachError, match=r"passes logit soft-capping \(softcap\)"):
        run(model, batch("causal"))


def test_a_soft_cap_of_none_is_no_soft_cap():
    with seeded(0):
        config = AutoConfig.for_model("gemma2", **GEMMA2, attn_logit_softcapping=None)
        model = AutoModelForCausalLM.from_config(config).train()
    assert len(hiddenkey.attach(model, "dropkey").sites) == GEMMA2["num_hidden_layers"]
    run(model, batch("causal")).loss.backward()


@pytest.mark.parametrize("method", ["hiddenkey", "hiddencut", "output-dropout"])
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_after_attach_is_refused_where_it_replaced_a_site(family, method):
    model = plain_model(family)
    hiddenkey.attach(model, method)
    wrapped = with_lora(model, family, "classification", feed_forward=True)
    with pytest.raises(
        AttachError, match=rf"^module .* was replaced after attach, .* {PEFT_FIRST}"
    ):
        step(wrapped, batch())


@pytest.mark.parametrize("method", ["hiddenkey", "dropkey", "hiddencut"])
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_after_attach_is_as_before_where_it_replaced_no_site(family, method):
    config = hiddenkey.method(method, rate=0.4)
    model = plain_model(family)
    attachment = hiddenkey.attach(model, config)
    late = step(with_lora(model, family, "classification"), batch(padding="left"))
    early = lora_model(family)
    hiddenkey.attach(early, config)
    loss, found = step(early, batch(padding="left"))
    assert late[0] == loss
    assert_same_gradients(late[1], found, rtol=0, atol=0)
    assert sum(attachment.losses.values()) == pytest.approx(loss)


def test_a_module_replaced_after_attach():
    model = plain_model("bert")
    hiddenkey.attach(model, "hiddenkey")
    step(model, batch())
    model.bert.encoder.layer[1].output.dense = nn.Linear(64, 32)
    with pytest.raises(
        AttachError,
        match=exactly(
            "module bert.encoder.layer.1.output.dense was replaced after attach, so its noise would"
            " be lost; attach after get_peft_model and after every other change of the model"
        ),
    ):
        step(model, batch())


@pytest.mark.parametrize("peft", [False, True])
@pytest.mark.parametrize(
    ("place", "name"),
    [
        (dispatch, "install"),
        (hiddenkey.attach.__globals__["model_dropout"], "switch_off"),
        (hiddenkey.attach.__globals__["ConsistencyPass"], "__init__"),
    ],
    ids=["attention", "dropout", "consistency"],
)
def test_a_failing_attach_leaves_the_model_untouched(place, name, peft, monkeypatch):
    """Wherever it fails, also where it would replace an earlier attachment."""
    model = (lora_model if peft else plain_model)("bert")
    plain_loss, plain_gradients = step(model, batch())
    before = snapshot(model)

    def fail(*args, **settings):
        raise RuntimeError("half way")

    with monkeypatch.context() as patch:
        patch.setattr(place, name, fail)
        with pytest.raises(RuntimeError, match="half way"):
            hiddenkey.attach(model, "hiddenkey")
    assert snapshot(model) == before
    loss, gradients = step(model, batch())
    assert loss == plain_loss
    assert_same_gradients(gradients, plain_gradients, rtol=0, atol=0)


@pytest.mark.parametrize(
    "refused", [DropoutConfig(layers=(9,)), DropoutConfig(hiddenkey.method("hiddencut").drops,
                                                          hidden_modules="nothing")],
)  # fmt: skip
def test_a_refused_configuration_leaves_an_earlier_attachment_at_work(refused):
    model = lora_model("bert")
    hiddenkey.attach(model, "dropkey")
    attached = run(model, batch()).loss
    with pytest.raises((ConfigError, AttachError)):
        hiddenkey.attach(model, refused)
    assert torch.equal(run(model, batch()).loss, attached)


def test_models_loaded_for_two_tasks_keep_their_own_refusals():
    """The plan reads the model, not the process."""
    single = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model("bert", vocab_size=60, hidden_size=32, num_hidden_layers=2,
                             num_attention_heads=4, intermediate_size=64, num_labels=1)
    )  # fmt: skip
    on_logits = DropoutConfig((), Consistency(on="logits"))
    with pytest.raises(ConfigError, match="means nothing for regression"):
        hiddenkey.attach(single, on_logits)
    hiddenkey.attach(plain_model("bert"), on_logits)
