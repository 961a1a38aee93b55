"""How often and of how many sequences two passes are compared: weight, every, fraction."""

import dataclasses

import pytest
import torch

import hiddenkey
from hiddenkey import Consistency, Drop, DropoutConfig
from hiddenkey.framework.patterns import PATTERNS, span
from hiddenkey.measure import ShareCounter
from models import (
    FAMILIES,
    FAMILY_TASKS,
    PAD,
    assert_same_gradients,
    batch,
    gradients,
    lora_model,
    run,
    step,
    transformer_in,
)
from two_passes import Calls, config, two_passes_by_hand


def test_weight_zero_trains_as_without_the_loss_after_the_same_draws():
    inputs = batch()
    model = lora_model("bert")
    hiddenkey.attach(model, config(weight=0.0))
    loss, found = step(model, inputs)
    by_hand, _, task_loss, _ = two_passes_by_hand("bert", "classification", "kl", inputs)
    task_loss.backward()
    assert loss == pytest.approx(task_loss.item())
    assert_same_gradients(found, gradients(by_hand))


@pytest.mark.parametrize("every", [1, 2, 3])
def test_every_kth_pass_carries_k_times_the_loss(every):
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, config(every=every, weight=0.5))
    _, _, _, divergence = two_passes_by_hand("bert", "classification", "kl", batch())
    for count in range(7):
        run(model, batch())
        assert attachment.consistency_passes == count + 1
        if count % every == 0:
            expected = pytest.approx(every * 0.5 * divergence.item(), rel=1e-4)
            assert attachment.losses["consistency"] == expected
        else:
            assert attachment.losses.keys() == {"task"}
        model.eval()  # evaluation in between does not count
        model(**batch())
        model.train()


def test_a_pass_that_is_not_due_runs_the_model_once():
    model = lora_model("bert")
    calls = Calls("bert", model)
    hiddenkey.attach(model, config(every=2))
    for _ in range(4):
        run(model, batch())
    assert len(calls.seen) == 6


def test_the_pass_counter_can_be_set():
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, config(every=3))
    attachment.consistency_passes = 2
    run(model, batch())
    assert attachment.losses.keys() == {"task"}
    run(model, batch())
    assert attachment.losses.keys() == {"task", "consistency"}


@pytest.mark.parametrize(
    ("family", "task"),
    [("bert", "classification"), ("bert", "regression"), ("llama", "causal")],
)
@pytest.mark.parametrize(("fraction", "chosen"), [(0.25, 2), (0.7, 6)])
def test_a_fraction_is_an_unbiased_sample_of_the_sequences(family, task, fraction, chosen):
    """Against an inference pass of a model without noise but for its last adapter, where each
    sequence has a fixed divergence, the mean over all draws is the loss over all sequences."""
    inputs = batch(task, "right", size=8)
    model = lora_model(family, task)
    # noise that does not depend on the batch: the output of the first layer, whole features
    noise = DropoutConfig((Drop("hidden", "element", 0.5),), layers=(0,))
    keep = torch.rand(1, 9, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PATTERNS, "element", lambda shape, rate, visible: keep)
        full = hiddenkey.attach(model, dataclasses.replace(noise, consistency=Consistency("js")))
        run(model, inputs)
        expected = full.losses["consistency"]
        part = hiddenkey.attach(
            model,
            dataclasses.replace(noise, consistency=Consistency("js", fraction=fraction)),
        )
        calls = Calls(family, model)
        values = []
        for seed in range(100):
            run(model, inputs, seed)
            values.append(part.losses["consistency"])
    assert {call["size"] for call in calls.seen} == {chosen, 8}
    values = torch.tensor(values)
    deviation = values.std() / len(values) ** 0.5
    assert deviation > 0
    assert abs(values.mean() - expected) < 4 * deviation
    assert deviation < 0.1 * expected


def test_a_fraction_compares_each_sequence_with_itself():
    """Without noise both passes agree, in whatever order the sequences were drawn."""
    for family, task in FAMILY_TASKS:
        model = lora_model(family, task)
        quiet = DropoutConfig((), Consistency(fraction=0.5))
        attachment = hiddenkey.attach(model, quiet)
        for seed in range(3):
            run(model, batch(task, "left", size=6), seed)
            assert attachment.losses["consistency"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_other_pass_sees_the_padding_of_the_sequences_that_were_chosen(family, monkeypatch):
    seen, ids = [], []

    def spy(shape, rate, visible):
        seen.append(visible.squeeze(-1))
        return span.keep_mask(shape, rate, visible)

    monkeypatch.setitem(PATTERNS, "span", spy)
    model = lora_model(family)
    transformer_in(model).get_input_embeddings().register_forward_pre_hook(
        lambda module, args: ids.append(args[0])
    )
    drops = (Drop("hidden", "span", 0.5),)
    hiddenkey.attach(model, DropoutConfig(drops, Consistency(fraction=0.5), layers=(0,)))
    for padding in ("left", "right"):
        run(model, batch(padding=padding, size=8))
    assert [mask.shape[0] for mask in seen] == [4, 8, 4, 8]
    for mask, tokens in zip(seen, ids, strict=True):
        assert torch.equal(mask, tokens != PAD)
    assert not seen[0].all()


def test_a_fraction_with_both_branches_halves_nothing_but_the_mean_of_the_task_losses():
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, config(fraction=0.5, backward="both"))
    loss, found = step(model, batch(padding="left"))
    assert sum(attachment.losses.values()) == pytest.approx(loss, rel=1e-6)
    assert all(g.isfinite().all() for g in found.values())


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_a_counter_takes_an_empty_batch(shape):
    counter = ShareCounter()
    counter.add(torch.ones(*shape, 4, dtype=torch.bool), torch.ones(*shape, 1, dtype=torch.bool))
    counter.add(torch.tensor([[False, True]]), torch.tensor([[True, True]]))
    assert counter.read() == 0.5
