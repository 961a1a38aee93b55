"""Switching a model's own dropout off and on."""

import logging

import pytest
import torch
from torch import nn

import hiddenkey
from hiddenkey import Drop, DropoutConfig
from hiddenkey.attachment import model_dropout
from hiddenkey.attachment.model_dropout import Setting, described
from models import FAMILIES, batch, lora_model, plain_model, run, snapshot, transformer_in


def rates(model: nn.Module) -> dict[str, float]:
    """Every dropout rate of a model: modules' p, and numbers with dropout in their names."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            found[name] = module.p
        for key, value in vars(module).items():
            if ("dropout" in key or "pdrop" in key) and isinstance(value, float):
                found[f"{name}.{key}"] = value
    return found


@pytest.mark.parametrize("task", ["classification", "causal"])
@pytest.mark.parametrize("family", FAMILIES)
def test_off_and_on_again(family, task):
    model = plain_model(family, task, dropout=0.3)
    inputs = batch(task)
    before, record = rates(model), snapshot(model)
    assert set(before.values()) == {0.3}
    noisy = run(model, inputs, 1).logits
    model.eval()
    quiet = run(model, inputs).logits
    model.train()

    settings = model_dropout.switch_off(model)
    assert len(settings) == len(before)
    assert set(rates(model).values()) == {0.0}
    torch.testing.assert_close(run(model, inputs, 1).logits, quiet, rtol=1e-4, atol=1e-5)

    model_dropout.restore(settings)
    assert rates(model) == before
    assert torch.equal(run(model, inputs, 1).logits, noisy)
    after = snapshot(model)
    assert {k: v for k, v in after.items() if "config" not in k} == {
        k: v for k, v in record.items() if "config" not in k
    }


def test_different_rates_come_back_each_to_its_own():
    model = plain_model(
        "bert", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.2, classifier_dropout=0.4
    )
    before = rates(model)
    assert set(before.values()) == {0.1, 0.2, 0.4}
    model_dropout.restore(model_dropout.switch_off(model))
    assert rates(model) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_keep_their_own_dropout_and_saved_modules_lose_it(family):
    model = lora_model(family, dropout=0.3, lora_dropout=0.5, feed_forward=True)
    settings = model_dropout.switch_off(transformer_in(model))
    after = rates(model)
    assert {rate for name, rate in after.items() if "lora_dropout" in name} == {0.5}
    assert {rate for name, rate in after.items() if "lora_dropout" not in name} <= {0.0}
    assert all("lora" not in type(setting.module).__module__ for setting in settings)


def test_other_kinds_of_dropout_module_and_numbers_are_found():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.channels = nn.Dropout2d(0.2)
            self.alpha = nn.AlphaDropout(0.3)
            self.attention_dropout = 0.4
            self.attn_pdrop = 0.1
            self.dropout_layers = 3  # a count, not a rate
            self.use_dropout = True
            self.width = 0.5

    block = Block()
    settings = model_dropout.switch_off(block)
    assert (block.channels.p, block.alpha.p) == (0.0, 0.0)
    assert (block.attention_dropout, block.attn_pdrop) == (0.0, 0.0)
    assert (block.dropout_layers, block.use_dropout, block.width) == (3, True, 0.5)
    model_dropout.restore(settings)
    assert (block.channels.p, block.alpha.p) == (0.2, 0.3)
    assert (block.attention_dropout, block.attn_pdrop) == (0.4, 0.1)


def test_a_module_used_in_two_places_comes_back_once():
    shared = nn.Dropout(0.3)
    model = nn.Sequential(shared, nn.Linear(2, 2), shared)
    settings = model_dropout.switch_off(model)
    assert len(settings) == 1
    model_dropout.restore(settings)
    assert shared.p == 0.3


def test_attach_says_once_in_a_process_what_it_switched_off(caplog, monkeypatch):
    monkeypatch.setattr("hiddenkey.log._said", set())
    caplog.set_level("INFO", logger="hiddenkey")
    for _ in range(2):
        hiddenkey.attach(plain_model("bert"), "hiddenkey")
    (said,) = [record.getMessage() for record in caplog.records if record.name == "hiddenkey"]
    assert said.startswith("the model's own dropout: off, was 0.1 in ")
    assert "keep_model_dropout=True" in said


def test_what_is_said_needs_no_logging_set_up_and_obeys_one_that_is(capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    logger = logging.getLogger("hiddenkey")
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.info("seen")
    assert capsys.readouterr().err == "hiddenkey: seen\n"
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])
    logger.info("for the script's own handlers")
    assert capsys.readouterr().err == ""


def test_several_rates_are_counted_one_by_one():
    settings = [Setting(None, "p", rate) for rate in (0.2, 0.1, 0.0, 0.1)]
    assert "off, was 0.1 in 2 and 0.2 in 1 places (" in described(settings)
    assert "off, was 0.1 in 1 place (" in described(settings[1:2])
    assert described(settings[2:3]) is None


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("keep", [False, True])
def test_the_models_own_dropout_is_off_unless_kept(family, keep):
    model = plain_model(family, dropout=0.4)
    nothing = DropoutConfig(keep_model_dropout=keep)
    inputs = batch()
    plain = run(model, inputs, 5).logits
    attachment = hiddenkey.attach(model, nothing)
    one, other = run(model, inputs, 5).logits, run(model, inputs, 6).logits
    assert torch.equal(one, plain) is keep
    assert torch.equal(one, other) is not keep
    attachment.detach()
    assert torch.equal(run(model, inputs, 5).logits, plain)


@pytest.mark.parametrize("keep", [False, True])
def test_the_attentions_own_dropout_acts_beside_the_attention_drops(keep):
    """BERT's attention dropout alone, with DropKey's rate at zero."""
    model = plain_model("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.4)
    config = DropoutConfig((Drop("attention_logits", "column", 0.0),), keep_model_dropout=keep)
    hiddenkey.attach(model, config)
    inputs = batch()
    one, other = run(model, inputs, 1).logits, run(model, inputs, 2).logits
    assert torch.equal(one, other) is not keep


@pytest.mark.parametrize("keep", [False, True])
def test_loras_own_dropout_is_never_touched(keep):
    model = lora_model("bert", dropout=0.0, lora_dropout=0.5)
    inputs = batch()
    plain = run(model, inputs, 3).logits
    hiddenkey.attach(model, DropoutConfig(keep_model_dropout=keep))
    assert torch.equal(run(model, inputs, 3).logits, plain)
    assert not torch.equal(run(model, inputs, 4).logits, plain)
    left = [m.p for n, m in model.named_modules() if "lora_dropout" in n and hasattr(m, "p")]
    assert left == [0.5] * 4
