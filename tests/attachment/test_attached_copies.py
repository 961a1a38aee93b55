"""Copies, pickles and saved files of attached models."""

import copy
import io
import json

import pytest
import torch

import hiddenkey
from hiddenkey import Consistency, DropoutConfig
from models import batch, lora_model, plain_model, snapshot, step


@pytest.mark.parametrize("after_training", [False, True])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_deep_copy_of_an_attached_model_is_attached_on_its_own(task, after_training):
    model = lora_model("bert", task)
    attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.4))
    inputs = batch(task)
    if after_training:
        step(model, inputs)
    expected, _ = step(model, inputs, 3)
    double = copy.deepcopy(model)
    passes = attachment.consistency_passes
    assert step(double, inputs, 3)[0] == expected
    assert attachment.consistency_passes == passes
    assert sum(attachment.losses.values()) == pytest.approx(expected)
    attachment.detach()
    assert step(double, inputs, 3)[0] == expected
    hiddenkey.attach(double, "lora").detach()
    assert snapshot(double) == snapshot(model)


@pytest.mark.parametrize("method", ["hiddenkey", "temporal", "label-smoothing"])
def test_a_language_model_can_be_copied_after_a_pass_without_logits(method):
    """As ``torch.optim.swa_utils.AveragedModel`` does."""
    model = lora_model("llama", "causal")
    hiddenkey.attach(model, method, lm_loss="chunked")
    inputs = batch("causal")
    step(model, inputs)
    assert step(copy.deepcopy(model), inputs, 3)[0] == step(model, inputs, 3)[0]


def test_a_whole_attached_model_can_be_pickled():
    model = lora_model("bert")
    hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.4))
    inputs = batch()
    step(model, inputs)
    expected, _ = step(model, inputs, 3)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert step(loaded, inputs, 3)[0] == expected


def test_a_model_can_be_copied_after_evaluation_and_between_due_passes():
    """Nothing of a pass that does not need it, such as its graph, is held."""
    model = lora_model("bert", "regression")
    config = DropoutConfig((), Consistency(every=2))
    hiddenkey.attach(model, config)
    inputs = batch("regression")
    step(model, inputs)
    step(model, inputs)
    copy.deepcopy(model)
    model.eval()
    model(**inputs)
    copy.deepcopy(model)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_saving_while_attached_writes_a_plain_model(family, tmp_path):
    model = plain_model(family, attention="eager")
    inputs = batch()
    hiddenkey.attach(model, "hiddenkey")
    step(model, inputs)
    model.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert "hiddenkey" not in text
    assert "attn_implementation" not in json.loads(text)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config._attn_implementation == "sdpa"
    model.eval()
    torch.testing.assert_close(loaded.eval()(**inputs).logits, model(**inputs).logits)


def test_a_saved_state_dict_is_that_of_the_untouched_model():
    model = lora_model("bert")
    files = []
    for _ in range(2):
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        files.append(file.getvalue())
        hiddenkey.attach(model, "hiddenkey")
    assert files[0] == files[1]
