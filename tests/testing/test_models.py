"""An examination of a model passes what is right, and names exactly what is wrong."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import hiddenkey
from hiddenkey.testing import examine_model
from hiddenkey.testing.examination import padded_batches
from hiddenkey.testing.plainness import snapshot
from models import FAMILY_TASKS, batch, lora_model, plain_model, seeded
from testing import own_attachments, own_models


def failing(report):
    assert report.refusal is None, report.refusal
    return {finding.check for finding in report.failures}


@pytest.mark.parametrize(("family", "task"), FAMILY_TASKS)
@pytest.mark.parametrize("build", [plain_model, lora_model])
def test_models_of_transformers_pass(family, task, build):
    report = examine_model(build(family, task), batch(task, "none"))
    assert report.passed, str(report)
    assert {site.position for site in report.sites} == {"attention_logits", "hidden"}


@pytest.mark.parametrize("method", hiddenkey.methods())
def test_every_method_passes(method):
    report = examine_model(lora_model("bert", lora_dropout=0.1), batch(), method)
    assert report.passed, str(report)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("layers", [2, 4])
def test_updates_that_fall_whole_are_held_against_what_chance_allows(layers):
    """In 16 passes at rate 0.9 all may fall, so that their shares have no spread."""
    config = BertConfig(
        vocab_size=60, hidden_size=16, num_attention_heads=2, num_hidden_layers=layers,
        intermediate_size=32, num_labels=3,
    )  # fmt: skip
    adapter = LoraConfig(target_modules=["query", "value"], init_lora_weights=False)
    with seeded(1):
        model = get_peft_model(BertForSequenceClassification(config), adapter)
    report = examine_model(model, batch(), "coto")
    assert report.passed, str(report)


def test_a_batch_of_one_is_padded_too():
    found = padded_batches({"input_ids": torch.ones(1, 9, dtype=torch.long)})
    lengths = {name: int(found[name]["attention_mask"].sum()) for name in [*found][1:]}
    assert lengths == {"padded right": 6, "padded left": 6, "almost all padding": 1}


def test_a_model_of_ones_own_passes():
    report = examine_model(own_models.own_model(), batch(padding="none"))
    assert report.passed, str(report)
    assert len(report.sites) == 4


def test_modules_on_which_nothing_depends_are_named():
    report = examine_model(own_models.own_model(own_models.IdleModel), batch(padding="none"))
    assert report.passed, str(report)
    (noise,) = (finding for finding in report.findings if finding.check == "noise")
    assert noise.detail.startswith("each of 2 sites acts by itself; no output depends on layers.")


@pytest.mark.parametrize(
    ("kind", "checks", "detail"),
    [
        (
            own_models.AttentionPooling,
            {"coverage"},
            "the model computes _softmax [4, 1, 9] outside every site of attention_logits",
        ),
        (
            own_models.DeafModel,
            {"noise"},
            "hidden at layers.0.down gives equal outputs for 24 seeds",
        ),
        (
            own_models.NoisyModel,
            {"own dropout", "rate zero"},
            "the model still draws (bernoulli_)",
        ),
        (
            own_models.WatchfulModel,
            {"evaluation", "rate zero"},
            "plain: logits, loss differ from evaluation without the attachment",
        ),
    ],
)
def test_a_broken_model_fails_its_own_checks_alone(kind, checks, detail):
    report = examine_model(own_models.own_model(kind), batch(padding="none"))
    assert failing(report) == checks, str(report)
    assert detail in report.failures[0].detail


@pytest.mark.parametrize(
    ("attach", "checks", "detail"),
    [
        (
            own_attachments.skips_a_layer,
            {"coverage"},
            "layers.1.attention computes _scaled_dot_product_flash_attention_for_cpu [4, 4, 9, 9]",
        ),
        (
            own_attachments.forgets_evaluation,
            {"evaluation"},
            "padded left: logits, loss differ from evaluation without the attachment",
        ),
        (
            own_attachments.stops_gradients,
            {"gradients"},
            "no gradient reaches embeddings.weight",
        ),
        (own_attachments.fails_on_padding, {"padding"}, "padded right: loss is not finite"),
        (
            own_attachments.shows_hidden_tokens,
            {"visibility"},
            "padded right: padding changes logits",
        ),
        (
            own_attachments.draws_elsewhere,
            {"seeds", "checkpointing"},
            "two passes with the same seed are",
        ),
        (
            own_attachments.differs_when_recomputed,
            {"checkpointing"},
            "away from those without checkpointing",
        ),
        (
            own_attachments.scales,
            {"rate zero"},
            "away from training without dropout (relative; 0.0001",
        ),
        (
            own_attachments.drops_too_much,
            {"shares"},
            "of the units are dropped, 0.0",
        ),
        (own_attachments.leaks_a_hook, {"detach"}, "layers.1.down: hooks: _forward_hooks was "),
        (own_attachments.changes_a_weight, {"detach"}, "weights layers.1.down.weight changed"),
    ],
)
def test_a_broken_attachment_fails_its_own_checks_alone(attach, checks, detail):
    report = examine_model(own_models.own_model(), batch(padding="none"), attach=attach)
    assert failing(report) == checks, str(report)
    assert any(detail in finding.detail for finding in report.failures), str(report)


def test_the_model_comes_back_as_it_was():
    model = own_models.own_model()
    model.layers[0].eval()
    model.classifier.bias.grad = torch.ones(3)
    model.register_buffer("moved", torch.zeros(1))
    model.register_forward_pre_hook(lambda module, args: module.moved.add_(1) and None)
    before, state = snapshot(model), torch.get_rng_state()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    examine_model(model, batch())
    after = snapshot(model)
    # transformers settles a config's problem type in the first call with labels
    assert after == before
    assert all(value.equal(weights[name]) for name, value in model.state_dict().items())
    assert model.classifier.bias.grad.equal(torch.ones(3))
    assert torch.get_rng_state().equal(state)


def test_a_refused_model_is_reported_with_the_reason():
    report = examine_model(nn.Linear(2, 2), {"input": torch.ones(1, 2)})
    assert not report.passed
    assert report.findings == ()
    assert "Linear has no list of layers with attention" in report.refusal
    assert str(report).startswith("Linear: refused: Linear has no list of layers")


def test_a_refusal_in_the_first_training_pass_is_a_refusal():
    model = own_models.own_model()
    report = examine_model(model, {"input_ids": batch()["input_ids"]})
    assert "got no labels" in report.refusal


def test_a_batch_that_the_model_cannot_take_is_no_finding():
    with pytest.raises(TypeError, match="pixel_values"):
        examine_model(own_models.own_model(), {"pixel_values": torch.ones(1, 3, 4, 4)})


def test_a_decoder_does_not_see_later_tokens():
    report = examine_model(plain_model("gpt2", "causal"), batch("causal", "none"), "dropkey")
    (finding,) = (finding for finding in report.findings if finding.check == "visibility")
    assert finding.detail.startswith(
        "nothing shows of the last token (plain), the last token (padded"
    )
