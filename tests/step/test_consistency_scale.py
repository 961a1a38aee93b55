"""What the consistency loss is divided by, with accumulated gradients too."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import hiddenkey
from hiddenkey import Consistency, Drop, DropoutConfig
from hiddenkey.framework.patterns import PATTERNS
from models import (
    DECODERS,
    FAMILIES,
    FAMILY_TASKS,
    assert_same_gradients,
    batch,
    gradients,
    lora_model,
    run,
    step,
)
from two_passes import config


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_with_num_items_in_batch_both_parts_are_sums_divided_by_it(family, fraction):
    inputs = batch("causal")
    labelled = (inputs["labels"][:, 1:] != -100).sum()
    model = lora_model(family, "causal")
    attachment = hiddenkey.attach(model, config(fraction=fraction))
    run(model, inputs)
    mean = attachment.losses
    for items in (labelled * 4, int(labelled) * 4):
        run(model, {**inputs, "num_items_in_batch": items})
        assert attachment.losses["task"] == pytest.approx(mean["task"] / 4, rel=1e-5)
        assert attachment.losses["consistency"] == pytest.approx(mean["consistency"] / 4, rel=1e-5)


def own_mean(logits, labels, vocab_size=None, **_):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def own_sum(logits, labels, vocab_size=None, num_items_in_batch=None, **_):
    total = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return total / num_items_in_batch


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("loss", "share"), [(own_mean, 1), (own_sum, 4)])
def test_a_loss_function_of_ones_own_says_whether_it_is_divided(loss, share, moment):
    inputs = batch("causal")
    model = lora_model("llama", "causal")
    mean = hiddenkey.attach(model, config())
    run(model, inputs)
    parts = mean.losses
    mean.detach()
    if moment == "before":
        model.base_model.model.loss_function = loss
    attachment = hiddenkey.attach(model, config())
    model.base_model.model.loss_function = loss
    items = (inputs["labels"][:, 1:] != -100).sum() * 4
    run(model, {**inputs, "num_items_in_batch": items})
    for name, part in parts.items():
        assert attachment.losses[name] == pytest.approx(part / share, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_takes_no_notice_of_num_items_in_batch(family):
    model = lora_model(family)
    attachment = hiddenkey.attach(model, config())
    run(model, batch())
    mean = attachment.losses
    run(model, {**batch(), "num_items_in_batch": torch.tensor(16)})
    assert attachment.losses == {k: pytest.approx(v) for k, v in mean.items()}


def sliced(inputs: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in inputs.items()}


QUIET = DropoutConfig(
    (Drop("attention_logits", "column", 0.0), Drop("hidden", "element", 0.0)), Consistency()
)


@pytest.mark.parametrize("method", [QUIET, "lora"], ids=["rate-0-and-kl", "lora"])
@pytest.mark.parametrize(("family", "task"), FAMILY_TASKS)
@pytest.mark.parametrize("padding", ["none", "left"])
def test_accumulating_four_times_two_is_one_batch_of_eight(family, task, padding, method):
    """With noise off. A classifier's loss is a mean, divided by the number of micro-batches; a
    language model's is a sum, divided by the labelled tokens of all of them."""
    inputs = batch(task, padding, size=8)
    model = lora_model(family, task)
    hiddenkey.attach(model, method)
    items = (inputs["labels"][:, 1:] != -100).sum() if task == "causal" else None
    whole = {**inputs, "num_items_in_batch": items} if task == "causal" else inputs
    loss, expected = step(model, whole)
    total = 0.0
    for start in range(0, 8, 2):
        part = sliced(inputs, slice(start, start + 2))
        if task == "causal":
            share = model(**part, num_items_in_batch=items).loss
        else:
            share = model(**part).loss / 4
        share.backward()
        total += share.item()
    assert total == pytest.approx(loss, rel=1e-5)
    assert_same_gradients(gradients(model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "task"), [("bert", "regression"), ("llama", "causal")])
def test_accumulated_consistency_is_that_of_one_batch(family, task):
    """The same, with a divergence that is not zero: fixed noise against an inference pass."""
    inputs = batch(task, "right", size=8)
    model = lora_model(family, task)
    keep = torch.rand(1, 9, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    items = (inputs["labels"][:, 1:] != -100).sum() if task == "causal" else None
    more = {"num_items_in_batch": items} if task == "causal" else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PATTERNS, "element", lambda shape, rate, visible: keep)
        noise = DropoutConfig((Drop("hidden", "element", 0.5),), Consistency("js", weight=3.0))
        attachment = hiddenkey.attach(model, noise)
        loss, expected = step(model, {**inputs, **more})
        assert attachment.losses["consistency"] > 0.01
        total = 0.0
        for start in range(0, 8, 2):
            share = model(**sliced(inputs, slice(start, start + 2)), **more).loss
            share = share if task == "causal" else share / 4
            share.backward()
            total += share.item()
    assert total == pytest.approx(loss, rel=1e-5)
    assert_same_gradients(gradients(model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "task", "lm_loss"),
    [
        ("llama", "causal", "full"),
        ("llama", "causal", "chunked"),
        ("bert", "classification", "auto"),
    ],
)
def test_a_second_pass_without_a_label_leaves_the_task_loss_to_the_first(family, task, lm_loss):
    """Of one sequence drawn of four, one has labels: else the second mean is over nothing."""
    inputs = batch(task)
    inputs["labels"][1:] = -100
    model = lora_model(family, task)
    expected = run(model.eval(), inputs).loss.item()
    model.train()
    settings = Consistency(backward="both", fraction=0.25)
    attachment = hiddenkey.attach(model, DropoutConfig((), settings), lm_loss=lm_loss)
    for seed in range(6):
        loss, found = step(model, inputs, seed)
        assert loss == pytest.approx(expected, rel=1e-5)
        assert attachment.losses["task"] == pytest.approx(expected, rel=1e-5)
        assert all(gradient.isfinite().all() for gradient in found.values())
