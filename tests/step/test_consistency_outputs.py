"""Outputs that a consistency loss is added to, and calls that it refuses."""

import dataclasses
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from torch import Tensor

import hiddenkey
from hiddenkey import ConsistencyError
from models import assert_same_gradients, batch, configuration, lora_model, plain_model, step
from two_passes import NOISE, config


@pytest.mark.parametrize("name", ["hiddenkey", "temporal", "label-smoothing"])
def test_a_model_that_returns_no_loss_for_its_labels_is_refused(name):
    class SilentForSequenceClassification(transformers.BertForSequenceClassification):
        def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
            output = super().forward(input_ids, attention_mask, labels=labels, **kwargs)
            output.loss = None
            return output

    model = SilentForSequenceClassification(configuration("bert", num_labels=3)).train()
    hiddenkey.attach(model, name)
    with pytest.raises(
        ConsistencyError, match="SilentForSequenceClassification returned none for the labels"
    ):
        model(**batch())


def test_labels_are_needed():
    model = lora_model("bert")
    hiddenkey.attach(model, config())
    inputs = batch()
    del inputs["labels"]
    with pytest.raises(
        ConsistencyError,
        match=r"this training pass got no labels; pass labels to the model .*"
        r"or set consistency=None",
    ):
        model(**inputs)
    model.eval()
    model(**inputs)
    with torch.no_grad():
        model.train()(**inputs)


@pytest.mark.parametrize(("family", "task"), [("bert", "regression"), ("llama", "causal")])
def test_return_dict_false_is_refused(family, task):
    model = lora_model(family, task)
    hiddenkey.attach(model, config())
    with pytest.raises(
        ConsistencyError, match="this call returned a tuple; call the model with return_dict=True"
    ):
        model(**batch(task), return_dict=False)
    hiddenkey.attach(model, NOISE)
    assert isinstance(model(**batch(task), return_dict=False), tuple)


@dataclasses.dataclass
class Output:
    loss: Tensor
    logits: Tensor


class Frozen(NamedTuple):
    loss: Tensor
    logits: Tensor


class OwnOutputForSequenceClassification(transformers.BertForSequenceClassification):
    """A model of one's own, which returns objects of its own."""

    kind: Any = Output

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        return self.kind(loss=output.loss, logits=output.logits)


@pytest.mark.parametrize("kind", [Output, SimpleNamespace])
@pytest.mark.parametrize("method", ["hiddenkey", "temporal", "label-smoothing"])
def test_outputs_that_are_no_dictionaries(kind, method):
    plain, inputs = plain_model("bert", dropout=0.0), batch()
    model = OwnOutputForSequenceClassification(plain.config).train()
    model.load_state_dict(plain.state_dict())
    model.kind = kind
    results = []
    for each in (plain, model):
        with hiddenkey.attach(each, method) as attachment:
            step(each, inputs)
            loss, found = step(each, inputs)
            parts = attachment.losses
        assert loss == pytest.approx(parts["task"] + parts["consistency"])
        results.append((parts, found))
    assert results[0][0] == results[1][0]
    assert_same_gradients(results[0][1], results[1][1])


def test_an_output_that_cannot_be_changed_is_refused():
    model = OwnOutputForSequenceClassification(plain_model("bert").config).train()
    model.kind = Frozen
    with (
        hiddenkey.attach(model, "hiddenkey"),
        pytest.raises(ConsistencyError, match=r"returned a Frozen, which .*\.own_loss"),
    ):
        model(**batch())


def test_a_task_that_becomes_another_one_is_refused():
    model, inputs = plain_model("bert"), batch()
    inputs["labels"] = torch.randn(4, 3)
    with hiddenkey.attach(model, "hiddenkey"):
        model.config.problem_type = "regression"
        with pytest.raises(ConsistencyError, match=r"from classes to regression.* attach after"):
            model(**inputs)
    with hiddenkey.attach(model, "hiddenkey") as attachment:
        model(**inputs)
        assert attachment.losses["consistency"] > 0
