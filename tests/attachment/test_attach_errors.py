"""What attach refuses: one sentence with the rule, the value and the next step, and no trace."""

import re

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
)

import hiddenkey
from hiddenkey import AttachError, ConfigError, Consistency, Drop, DropoutConfig
from hiddenkey.attention import dispatch
from hiddenkey.step.consistency import TwoPassLoss
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


@pytest.mark.parametrize("thing", ["bert", None, {"model": 1}])
def test_something_that_is_no_model(thing):
    with pytest.raises(
        AttachError,
        match=exactly(
            "attach needs a model: a transformers PreTrainedModel, a PeftModel around one, or a"
            f" torch.nn.Module, got {type(thing).__name__}"
        ),
    ):
        hiddenkey.attach(thing, "hiddenkey")


@pytest.mark.parametrize("rank", [-1, 1.0, True, "0"])
def test_a_data_parallel_rank_that_is_none(rank):
    model = plain_model("bert")
    before = snapshot(model)
    with pytest.raises(
        ConfigError,
        match=exactly(
            f"data_parallel_rank must be a whole number ≥ 0 or None, got {rank!r}; None finds it"
        ),
    ):
        hiddenkey.attach(model, "hiddenkey", data_parallel_rank=rank)
    assert snapshot(model) == before


@pytest.mark.parametrize(
    ("kinds", "fault"),
    [
        ("self", "attention must be a list of self, cross, or of one of them, got 'self'"),
        ((), "attention must be a list of self, cross, or of one of them, got ()"),
        (("slef",), "attention must be one of self, cross, got 'slef'; did you mean 'self'?"),
    ],
)
def test_kinds_of_attention_that_do_not_exist(kinds, fault):
    with pytest.raises(ConfigError, match=exactly(fault)):
        DropoutConfig(hiddenkey.method("dropkey").drops, attention=kinds)


def test_a_module_without_layers():
    with pytest.raises(
        AttachError, match=r"^Linear has no list of layers with attention in it; if modules"
    ):
        hiddenkey.attach(nn.Linear(2, 2), "hiddencut")


def test_an_unknown_method():
    model = plain_model("bert")
    with pytest.raises(ConfigError, match=r"^method must be one of .*, got 'hidenkey'; did you mean"
                       r" 'hiddenkey'\?$"):  # fmt: skip
        hiddenkey.attach(model, "hidenkey")


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


def test_models_without_a_consistency_loss():
    from transformers import BertModel

    model = BertModel(plain_model("bert").config)
    with pytest.raises(
        ConfigError,
        match=exactly(
            "the consistency loss works on ForSequenceClassification, ForImageClassification,"
            " ForCausalLM, ForMaskedLM, ForConditionalGeneration, ForTokenClassification,"
            " ForQuestionAnswering, ForMultipleChoice, got BertModel, whose task is not known;"
            " set consistency=None, as hiddenkey-minus does. For sentence embeddings pair each text"
            " with itself in the data: a contrastive loss then compares two passes with noise"
        ),
    ):
        hiddenkey.attach(model, "hiddenkey")
    hiddenkey.attach(model, "hiddenkey-minus")


@pytest.mark.parametrize(
    ("kind", "sizes", "reason"),
    [
        ("mamba", {"hidden_size": 32, "num_hidden_layers": 2}, "computes no softmax"),
        (
            "nystromformer",
            {**GEMMA2, "hidden_size": 64, "segment_means_seq_len": 48},
            "approximates attention by landmarks",
        ),
    ],
)
def test_a_model_without_keys_to_drop(kind, sizes, reason):
    with seeded(0):
        model = AutoModelForMaskedLM if kind == "nystromformer" else AutoModelForCausalLM
        model = model.from_config(AutoConfig.for_model(kind, **{"vocab_size": 60, **sizes}))
    before = snapshot(model)
    with pytest.raises(
        AttachError,
        match=rf"{reason}.*; use a method without attention drops, such as 'hiddencut'$",
    ):
        hiddenkey.attach(model, "hiddenkey")
    assert snapshot(model) == before


@pytest.mark.parametrize("name", ["paged|sdpa", "paged|flash_attention_2", "somebody_elses"])
def test_attention_implementations_that_are_not_supported(name):
    model = plain_model("llama", "causal")
    model.config._attn_implementation_internal = name
    before = snapshot(model)
    message = exactly(
        "attention drops work on the attention implementations sdpa, eager, flash_attention_2,"
        f" flash_attention_3, flash_attention_4, flex_attention; this model uses {name!r}; load it"
        " with attn_implementation='sdpa'"
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
        (dispatch, "register"),
        (hiddenkey.attach.__globals__["model_dropout"], "switch_off"),
        (TwoPassLoss, "__init__"),
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


@pytest.mark.parametrize("position", ["hidden", "update"])
def test_feed_forward_blocks_that_see_a_few_tokens_at_a_time(position):
    model = lora_model("bert", feed_forward=True, chunk_size_feed_forward=3)
    with pytest.raises(AttachError, match=r"layer\.0 .* 3 tokens at a time.* to 0 in the model's"):
        hiddenkey.attach(model, DropoutConfig((Drop(position, "element", 0.1),)))
    hiddenkey.attach(model, "dropkey").detach()
