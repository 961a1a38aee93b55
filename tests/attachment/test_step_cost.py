"""What a step costs is measured, and leaves no trace in the training."""

import dataclasses

import pytest
import torch
from torch import nn
from transformers import LevitConfig, LevitForImageClassification

import hiddenkey
from hiddenkey import AttachError, ConfigError, Consistency, StepCost
from hiddenkey.attachment import step_cost
from models import LABELS, batch, lora_model, seeded

RATE = 0.3
METHODS = [name for name in hiddenkey.methods() if name != "lora"]


def configured(name):
    """A method at a rate that is felt, if it has one."""
    config = hiddenkey.method(name)
    return hiddenkey.method(name, rate=RATE) if config.drops else config


def trained(attachment, model, measure):
    """Three steps; return losses, gradients, what was counted, and a random number after them."""
    found = []
    for number in range(3):
        if measure == number:
            attachment.step_cost(lambda: model(**batch(seed=9)).loss, rounds=1)
        with seeded(number):
            loss = model(**batch(seed=number % 2)).loss
        loss.backward()
        found.append(loss.detach())
        found += [p.grad.clone() for p in model.parameters() if p.grad is not None]
    found += [torch.tensor(each) for each in attachment.shares().values()]
    found += [torch.tensor(each) for each in attachment.losses.values()]
    found.append(torch.tensor(attachment.consistency_passes))
    return found


def attached(name):
    model = lora_model("bert", lora_dropout=0.1)
    return model, hiddenkey.attach(model, configured(name))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("moment", [0, 2])
def test_training_goes_on_as_if_nothing_had_been_measured(name, moment):
    with seeded(5):
        model, attachment = attached(name)
        plain = trained(attachment, model, None)
        after = torch.rand(())
    with seeded(5):
        model, attachment = attached(name)
        ours = trained(attachment, model, moment)
        assert torch.equal(torch.rand(()), after)
    assert len(plain) == len(ours) > 10
    assert all(torch.equal(a, b) for a, b in zip(plain, ours, strict=True))
    if attachment.history is not None:
        assert len(attachment.history) == 8


@pytest.mark.parametrize("name", METHODS)
def test_a_pass_without_the_method_is_that_of_a_model_without_it(name):
    model, attachment = attached(name)
    with hiddenkey.attach(lora_model("bert", lora_dropout=0.1), "lora") as other, seeded(3):
        wanted = other.called_module(**batch()).loss
    seen = []

    def loss():
        torch.manual_seed(3)
        found = model(**batch()).loss
        if attachment._step.is_paused:
            seen.append(found.detach())
        return found

    attachment.step_cost(loss, rounds=1)
    assert len(seen) == 3
    assert all(torch.equal(each, wanted.detach()) for each in seen)


def test_gradients_and_predictions_are_left_alone():
    model, attachment = attached("temporal")
    model(**batch()).loss.backward()
    before = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    kept = attachment.history
    attachment.step_cost(lambda: model(**batch(seed=7)).loss, rounds=1)
    after = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert attachment.history is kept
    assert len(kept) == 4


def test_running_statistics_stand_where_they_stood():
    with seeded(0):
        size = {"hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1]}
        config = LevitConfig(image_size=32, key_dim=[8, 8, 8], num_labels=2, **size)
        model = LevitForImageClassification(config).train()
        images = torch.randn(4, 3, 32, 32)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=RATE))
    labels = torch.tensor([0, 1, 0, 1])
    attachment.step_cost(lambda: model(pixel_values=images, labels=labels).loss, rounds=1)
    assert before
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_a_loss_in_every_other_step_is_measured_over_two(monkeypatch):
    model = lora_model("bert")
    config = dataclasses.replace(
        hiddenkey.method("hiddenkey", rate=RATE), consistency=Consistency(every=2)
    )
    attachment = hiddenkey.attach(model, config)
    passes = []
    model.base_model.model.bert.register_forward_pre_hook(
        lambda *_: passes.append(attachment._step.is_paused)
    )
    cost = attachment.step_cost(lambda: model(**batch()).loss, rounds=2)
    assert (len(cost.seconds), len(cost.plain_seconds)) == (2, 2)
    # four pairs: two steps without the method, two with it, of which one has a second pass
    assert (passes.count(True), passes.count(False)) == (4 * 2, 4 * 3)


@pytest.mark.parametrize("name", ["hiddenkey", "temporal", "hiddenkey-minus", "label-smoothing"])
def test_a_loss_of_ones_own(name):
    model, attachment = attached(name)
    seen = []

    def loss():
        seen.append(attachment._step.is_paused)
        inputs = batch()
        labels = inputs.pop("labels")
        with attachment.own_loss(labels) as own:
            return own.total(nn.functional.cross_entropy(model(**inputs).logits, labels))

    cost = attachment.step_cost(loss, rounds=1)
    assert cost.ratio > 0
    assert (seen.count(True), seen.count(False)) == (3, 3)
    assert attachment._step.own is None


def test_who_begins_changes_and_the_warm_up_does_not_count(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(step_cost.time, "perf_counter", lambda: float(next(clock)) ** 2)
    model, attachment = attached("hiddenkey-minus")
    cost = attachment.step_cost(lambda: model(**batch()).loss, rounds=2)
    # squares: a pass from number n to n + 1 takes 2n + 1; four passes of two pairs warm up
    assert cost.seconds == (17.0, 29.0)
    assert cost.plain_seconds == (21.0, 25.0)


def test_the_ratio_is_the_median_pairs():
    cost = StepCost((1.1, 2.0, 1.3, 1.2, 5.0), (1.0, 1.0, 1.0, 1.0, 5.0))
    assert cost.ratio == pytest.approx(1.2)
    assert str(cost) == (
        "forward and backward pass take 1.20 times as long as without the method's noise and loss"
        " (1.00 to 2.00 in 5 pairs)"
    )


def test_what_cannot_be_measured_says_why():
    model, attachment = attached("hiddenkey-minus")

    def loss():
        return model(**batch()).loss

    with pytest.raises(
        AttachError, match=r"must return the loss .* got NoneType; for example lambda"
    ):
        attachment.step_cost(lambda: None)
    with pytest.raises(AttachError, match=r"got a tensor \[\] without gradient"):
        attachment.step_cost(lambda: loss().detach())
    assert not attachment._step.is_paused
    with pytest.raises(AttachError, match="got SequenceClassifierOutput; for example"):
        attachment.step_cost(lambda: model(**batch()))
    with pytest.raises(ConfigError, match="a function without arguments, got Tensor"):
        attachment.step_cost(loss())
    with pytest.raises(ConfigError, match="rounds must be a whole number of at least 1, got 0"):
        attachment.step_cost(loss, rounds=0)
    model.eval()
    with pytest.raises(AttachError, match=r"call model.train\(\) before"):
        attachment.step_cost(loss)
    model.train().requires_grad_(False)
    with pytest.raises(AttachError, match="no weight of the model is trained"):
        attachment.step_cost(loss)
    attachment.detach()
    with pytest.raises(AttachError, match="was detached"):
        attachment.step_cost(loss)


def test_noise_acts_again_afterwards():
    model, attachment = attached("hiddenkey")
    attachment.step_cost(lambda: model(**batch()).loss, rounds=1)
    model(**batch()).loss.backward()
    assert LABELS == 3
    assert all(0.1 < share < 0.6 for share in attachment.shares().values())
    assert set(attachment.losses) == {"task", "consistency"}
