"""Label smoothing as an added loss, against PyTorch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import hiddenkey
from hiddenkey import ConfigError, Consistency, ConsistencyError, DropoutConfig
from models import assert_same_gradients, batch, gradients, lora_model, seeded, step
from task_models import batch_for, model_for

NOISE = hiddenkey.method("hiddenkey-minus", rate=0.4)
EPSILON = 0.3
SMOOTH = DropoutConfig(NOISE.drops, Consistency("label-smoothing", weight=EPSILON))


def smoothed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.double(), labels, label_smoothing=EPSILON)


@pytest.mark.parametrize(
    ("family", "task", "lm_loss"),
    [
        *((family, "classification", "auto") for family in ("bert", "llama")),
        *((family, "causal", loss) for family in ("gpt2", "llama") for loss in ("full", "chunked")),
    ],
)
def test_the_loss_is_that_of_pytorch(family, task, lm_loss):
    inputs = batch(task, "right")
    by_hand = lora_model(family, task)
    hiddenkey.attach(by_hand, NOISE)
    with seeded(0):
        output = by_hand(**inputs)
    logits, labels = output.logits, inputs["labels"]
    if task == "causal":
        logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    expected = smoothed(logits, labels)
    expected.backward()
    model = lora_model(family, task)
    attachment = hiddenkey.attach(model, SMOOTH, lm_loss=lm_loss)
    loss, found = step(model, inputs)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert abs(attachment.losses["consistency"]) > 1e-3
    assert attachment.losses["task"] == pytest.approx(output.loss.item(), rel=1e-5)
    assert_same_gradients(found, gradients(by_hand), rtol=1e-3, atol=1e-5)


def test_sequences_without_a_label_are_left_out_as_in_the_task_loss():
    inputs = batch("classification")
    inputs["labels"][1] = -100
    by_hand = lora_model("bert")
    hiddenkey.attach(by_hand, NOISE)
    with seeded(0):
        expected = smoothed(by_hand(**inputs).logits, inputs["labels"])
    expected.backward()
    model = lora_model("bert")
    hiddenkey.attach(model, SMOOTH)
    loss, found = step(model, inputs)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(found, gradients(by_hand), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("task", ["labels", "answers", "choices", "tokens"])
def test_each_task_type_is_smoothed_over_its_classes(task):
    inputs = batch_for(task)
    by_hand = model_for("bert", task)
    hiddenkey.attach(by_hand, NOISE)
    with seeded(0):
        output = by_hand(**inputs)
    if task == "answers":
        hidden = torch.where(inputs["attention_mask"].bool(), 0.0, -1e4)
        tokens, expected = inputs["input_ids"].shape[1], 0
        for name in ("start", "end"):
            positions = inputs[f"{name}_positions"]
            log_p = (output[f"{name}_logits"].double() + hidden).log_softmax(-1)
            # the task loss also sees the logits of padding; what is added does not
            plain = F.cross_entropy(
                output[f"{name}_logits"].double(), positions.clamp(0, tokens), ignore_index=tokens
            )
            inside = positions < tokens
            uniform = torch.where(inputs["attention_mask"].bool(), log_p, 0).sum(-1)
            uniform = -uniform / inputs["attention_mask"].sum(-1)
            at = -log_p.gather(-1, positions.clamp(0, tokens - 1)[:, None]).squeeze(-1)
            expected = expected + 0.5 * (plain + EPSILON * (uniform - at)[inside].mean())
    elif task == "labels":
        target = inputs["labels"].double() * (1 - EPSILON) + EPSILON / 2
        expected = F.binary_cross_entropy_with_logits(output.logits.double(), target)
    elif task == "choices":
        expected = smoothed(output.logits, inputs["labels"])
    else:
        expected = smoothed(output.logits.flatten(0, 1), inputs["labels"].flatten())
    expected.backward()
    model = model_for("bert", task)
    hiddenkey.attach(model, SMOOTH)
    loss, found = step(model, inputs)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(found, gradients(by_hand), rtol=1e-3, atol=1e-5)


def test_a_loss_of_ones_own_is_smoothed_by_its_labels():
    inputs = batch("classification", "right")
    labels = inputs.pop("labels")
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, SMOOTH)
    with seeded(0), attachment.own_loss(labels) as own:
        logits = model(**inputs).logits
        loss = own.total(F.cross_entropy(logits, labels))
    assert loss.item() == pytest.approx(smoothed(logits, labels).item(), rel=1e-5)
    with pytest.raises(ConsistencyError, match="label smoothing needs the labels"):
        attachment.own_loss()


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"weight": 1.0}, "weight must be in"),
        ({"every": 2}, "every=2 means nothing"),
        ({"fraction": 0.5}, "fraction=0.5 means nothing"),
        ({"target": "history"}, "target='history' means nothing"),
        ({"momentum": 0.5}, "momentum=0.5 means nothing"),
        ({"backward": "both"}, "backward='both' means nothing"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], fault: str):
    with pytest.raises(ConfigError, match=fault):
        DropoutConfig(consistency=Consistency("label-smoothing", **{"weight": 0.1, **settings}))


def test_regression_has_no_classes():
    with pytest.raises(ConfigError, match="regression, which has none"):
        hiddenkey.attach(lora_model("bert", "regression"), "label-smoothing")
