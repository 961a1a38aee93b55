"""Losses that Trainer computes outside of the model: the same without noise, whole with it."""

import pytest
import torch
from torch import nn
from transformers import Trainer

import hiddenkey
from hiddenkey import Consistency, ConsistencyError, Drop, DropoutConfig
from hiddenkey.integrations.trainer import watch
from integrations.trainers import assert_same_weights, logs, tiny_trainer, weights
from models import lora_model

NOISE = hiddenkey.method("hiddenkey-minus", rate=0.3).drops
TASKS = {"bert": "classification", "llama": "causal"}


def mean_loss(outputs, labels, num_items_in_batch=None):
    """Cross-entropy summed, over the accumulated batch's items: as Trainer asks for."""
    logits = outputs.logits
    if logits.dim() == 3:
        logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    total = nn.functional.cross_entropy(logits, labels, reduction="sum")
    return total / num_items_in_batch


OUTSIDE = {
    "label-smoothing": {"label_smoothing_factor": 0.1},
    "compute_loss_func": {"compute_loss_func": mean_loss},
}
outside = pytest.mark.parametrize("way", OUTSIDE)
accumulated = pytest.mark.parametrize("accumulation", [1, 3])
families = pytest.mark.parametrize("family", TASKS)


def train(family, folder, config, *, lm_loss="auto", **settings):
    model = lora_model(family, TASKS[family])
    made = tiny_trainer(model, folder, TASKS[family], **settings)
    if config is not None:
        watch(made, hiddenkey.attach(model, config, lm_loss=lm_loss))
    made.train()
    return logs(made), weights(model)


@outside
@families
@accumulated
def test_without_noise_it_trains_as_without_the_attachment(family, way, accumulation, tmp_path):
    settings = {**OUTSIDE[way], "gradient_accumulation_steps": accumulation}
    expected, trained = train(family, tmp_path, DropoutConfig(), **settings)
    found, ours = train(family, tmp_path, DropoutConfig((), Consistency()), **settings)
    for log, wanted in zip(found, expected, strict=True):
        assert log["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
        assert log["task_loss"] == pytest.approx(wanted["task_loss"], rel=1e-5)
        assert log["consistency_loss"] == pytest.approx(0, abs=1e-6)
    assert_same_weights(trained, ours)


@outside
@families
@accumulated
def test_with_noise_the_parts_add_up(family, way, accumulation, tmp_path):
    settings = {**OUTSIDE[way], "gradient_accumulation_steps": accumulation}
    found, _ = train(family, tmp_path, DropoutConfig(NOISE, Consistency()), **settings)
    for log in found:
        assert log["consistency_loss"] > 0.005
        total = log["task_loss"] + log["consistency_loss"]
        assert total == pytest.approx(log["loss"], rel=1e-3)
        assert log["dropped/hidden"] > 0.2


@families
def test_the_models_own_loss_computed_by_the_trainer_trains_as_in_the_model(family, tmp_path):
    """Same draws, same scale: a ``compute_loss_func`` that equals the model's own loss."""
    config = DropoutConfig(NOISE, Consistency())
    inside, trained = train(family, tmp_path, config, lm_loss="full")
    found, ours = train(family, tmp_path, config, compute_loss_func=mean_loss)
    for log, wanted in zip(found, inside, strict=True):
        for name in ("loss", "task_loss", "consistency_loss", "dropped/hidden"):
            assert log[name] == pytest.approx(wanted[name], rel=1e-4), name
    assert_same_weights(trained, ours, rtol=1e-4, atol=1e-6)


@outside
@families
def test_accumulating_trains_as_one_large_batch(family, way, tmp_path, monkeypatch):
    """With fixed masks against an inference pass: a divergence that does not depend on draws."""
    keep = torch.rand(1, 9, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    monkeypatch.setitem(
        hiddenkey.framework.patterns.PATTERNS, "element", lambda shape, rate, visible: keep
    )
    config = DropoutConfig((Drop("hidden", "element", 0.5),), Consistency("js"))
    runs = [
        train(
            family,
            tmp_path,
            config,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            **OUTSIDE[way],
        )
        for size, accumulation in ((8, 1), (2, 4))
    ]
    for one, two in zip(runs[0][0], runs[1][0], strict=True):
        for name in ("loss", "task_loss", "consistency_loss"):
            assert one[name] == pytest.approx(two[name], rel=1e-4), name
        assert one["consistency_loss"] > 0.01
    assert_same_weights(runs[0][1], runs[1][1], rtol=1e-4, atol=1e-6)


@outside
def test_evaluation_is_the_trainers_own(way, tmp_path):
    found = []
    for config in (None, "hiddenkey"):
        model = lora_model("bert")
        made = tiny_trainer(model, tmp_path, **OUTSIDE[way])
        if config:
            watch(made, hiddenkey.attach(model, config))
        found.append(made.evaluate()["eval_loss"])
        assert made.predict(made.eval_dataset).predictions.shape == (8, 3)
    assert found[0] == found[1]


@outside
def test_a_subclass_that_calls_trainers_method_works_too(way, tmp_path):
    class Doubled(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            return 2 * super().compute_loss(model, inputs, return_outputs, **kwargs)

    model = lora_model("bert")
    made = tiny_trainer(model, tmp_path, kind=Doubled, **OUTSIDE[way])
    watch(made, hiddenkey.attach(model, "hiddenkey"))
    made.train()
    for log in logs(made):
        total = log["task_loss"] + log["consistency_loss"]
        assert 2 * total == pytest.approx(log["loss"], rel=1e-3)


def test_a_subclass_that_goes_its_own_way_is_refused(tmp_path):
    class Own(Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            labels = inputs.pop("labels")
            return nn.functional.cross_entropy(model(**inputs).logits, labels)

    for settings, message in (
        (OUTSIDE["label-smoothing"], r"train on own.total\(your_loss\)"),
        ({}, r"got no labels; .*hold the pass by attachment.own_loss"),
    ):
        model = lora_model("bert")
        made = tiny_trainer(model, tmp_path, kind=Own, **settings)
        watch(made, hiddenkey.attach(model, "hiddenkey"))
        with pytest.raises(ConsistencyError, match=message):
            made.train()


@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_a_compiled_model(tmp_path):
    torch._dynamo.reset()
    config = DropoutConfig(NOISE, Consistency())
    settings = {"torch_compile": True, "torch_compile_backend": "eager"}
    found, _ = train("bert", tmp_path, config, label_smoothing_factor=0.1, **settings)
    for log in found:
        assert log["consistency_loss"] > 0.005
        total = log["task_loss"] + log["consistency_loss"]
        assert total == pytest.approx(log["loss"], rel=1e-3)
    torch._dynamo.reset()


def test_a_loss_over_both_passes_is_refused(tmp_path):
    model = lora_model("bert")
    made = tiny_trainer(model, tmp_path, label_smoothing_factor=0.1)
    watch(made, hiddenkey.attach(model, DropoutConfig(NOISE, Consistency(backward="both"))))
    with pytest.raises(ConsistencyError, match=r"label smoothing, .*use backward='one'"):
        made.train()


@outside
def test_without_a_consistency_loss_a_subclass_may_go_its_own_way(way, tmp_path):
    """There is nothing to add, so a loss of its own, or of two passes, is nobody's mistake."""

    class Own(Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            logits = [model(**inputs).logits for _ in range(2)]
            return nn.functional.cross_entropy(sum(logits), inputs["labels"])

    model = lora_model("bert")
    made = tiny_trainer(model, tmp_path, kind=Own, **OUTSIDE[way])
    watch(made, hiddenkey.attach(model, DropoutConfig(NOISE)))
    made.train()
    for log in logs(made):
        assert log["task_loss"] == log["loss"]
        assert log["dropped/hidden"] > 0


def ignoring(outputs, labels, num_items_in_batch=None):
    """A mean over its own batch, whatever it is given."""
    return nn.functional.cross_entropy(outputs.logits, labels)


def test_beside_a_mean_the_consistency_loss_is_a_mean_too(tmp_path):
    """Trainer adds the means of three batches: three times the sum over all items, if divided."""
    config = DropoutConfig(NOISE, Consistency())
    settings = {"gradient_accumulation_steps": 3, "logging_steps": 1}
    (mean, *_), _ = train("bert", tmp_path, config, compute_loss_func=ignoring, **settings)
    (sums, *_), _ = train("bert", tmp_path, config, compute_loss_func=mean_loss, **settings)
    assert sums["consistency_loss"] > 0.001
    for part in ("task_loss", "consistency_loss"):
        assert mean[part] == pytest.approx(3 * sums[part], rel=1e-4)
