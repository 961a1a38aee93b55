"""A loss that the script computes by itself: the same numbers as the model's own, or a refusal."""

import copy

import pytest
import torch
from torch import nn

import hiddenkey
from hiddenkey import Consistency, ConsistencyError, DropoutConfig
from hiddenkey.attachment.attachment import attachment_of
from models import LABELS, assert_same_gradients, batch, gradients, lora_model, seeded

DROPS = hiddenkey.method("hiddenkey", rate=0.3).drops
LOSSES = {
    "kl": Consistency(weight=0.7),
    "js": Consistency("js"),
    "part": Consistency(fraction=0.5),
    "representation": Consistency(on="representation"),
}
TASKS = {"bert": "classification", "llama": "causal", "roberta": "regression"}


def own_loss(task, logits, labels):
    """The losses of transformers, by PyTorch's own functions."""
    if task == "regression":
        return nn.functional.mse_loss(logits.squeeze(-1), labels)
    if task == "causal":
        logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return nn.functional.cross_entropy(logits, labels)


def without_labels(inputs):
    return {name: value for name, value in inputs.items() if name != "labels"}


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("family", TASKS)
def test_the_models_own_loss_computed_outside_trains_as_inside(family, kind):
    task = TASKS[family]
    inputs = batch(task)
    found, losses = [], []
    for outside in (False, True):
        model = lora_model(family, task)
        attachment = hiddenkey.attach(model, DropoutConfig(DROPS, LOSSES[kind]), lm_loss="full")
        with seeded(3):
            if outside:
                with attachment.own_loss(inputs["labels"]) as own:
                    logits = model(**without_labels(inputs)).logits
                    loss = own.total(own_loss(task, logits, inputs["labels"]))
            else:
                loss = model(**inputs).loss
        loss.backward()
        assert sum(attachment.losses.values()) == pytest.approx(loss.item(), rel=1e-5)
        assert attachment.losses["consistency"] > 0.001
        found.append(gradients(model))
        losses.append(attachment.losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert_same_gradients(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("items", [17, torch.tensor(17)])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_sum_is_divided_by_the_items(family, items):
    task = TASKS[family]
    inputs = batch(task)
    labels = inputs.pop("labels")
    attachment = hiddenkey.attach(lora_model(family, task), DropoutConfig(DROPS, Consistency()))
    parts = []
    for divisor in (None, items):
        with seeded(3), attachment.own_loss(labels, items=divisor) as own:
            own.total(attachment._transformer(**inputs).logits.sum())
        parts.append(attachment.losses["consistency"])
    units = 4 if task == "classification" else int((labels[:, 1:] != -100).sum())
    assert parts[1] == pytest.approx(parts[0] * units / 17, rel=1e-5)


def test_labels_are_not_needed_to_compare_whole_sequences():
    model, inputs = lora_model("bert"), batch()
    attachment = hiddenkey.attach(model, "hiddenkey")
    with attachment.own_loss() as own:
        loss = own.total(model(**without_labels(inputs)).logits.square().mean())
    assert loss.item() == pytest.approx(sum(attachment.losses.values()), rel=1e-5)
    assert attachment.losses["consistency"] > 0


def test_passes_that_are_not_due_and_methods_without_the_loss_add_nothing():
    inputs = batch()
    for method in (DropoutConfig(DROPS, Consistency(every=2)), DropoutConfig(DROPS)):
        model = lora_model("bert")
        attachment = hiddenkey.attach(model, method)
        parts = []
        for _ in range(2):
            with attachment.own_loss(inputs["labels"]) as own:
                task = model(**without_labels(inputs)).logits.square().mean()
                own.total(task)
            parts.append(attachment.losses)
            assert attachment.losses["task"] == pytest.approx(task.item())
        assert ["consistency" in each for each in parts] == [method.consistency is not None, False]


def test_the_logits_are_there_although_the_model_trains_without_them_otherwise():
    model, inputs = lora_model("llama", "causal"), batch("causal")
    attachment = hiddenkey.attach(model, DropoutConfig(DROPS, Consistency()), lm_loss="chunked")
    for _ in range(2):
        with seeded(1):
            output = model(**inputs)
        assert output.logits is None
        within = attachment.losses
        with seeded(1), attachment.own_loss(inputs["labels"]) as own:
            logits = model(**without_labels(inputs)).logits
            own.total(own_loss("causal", logits, inputs["labels"]))
        assert attachment.losses == pytest.approx(within, rel=1e-4)


@pytest.mark.parametrize("method", ["hiddenkey", "hiddenkey-minus"])
def test_evaluation_needs_no_other_code(method):
    model, inputs = lora_model("bert"), batch()
    attachment = hiddenkey.attach(model, method)
    model.eval()
    with attachment.own_loss(inputs["labels"]) as own:
        logits = model(**without_labels(inputs)).logits
        task = own_loss("classification", logits, inputs["labels"])
        assert own.total(task) is task
    model.train()
    with torch.no_grad(), attachment.own_loss(inputs["labels"]) as own:
        task = model(**without_labels(inputs)).logits.mean()
        assert own.total(task) is task
    assert attachment.losses == {}


def test_layers_below_the_first_noisy_one_still_run_once():
    model, inputs = lora_model("llama", layers=3), batch()
    config = DropoutConfig(DROPS, Consistency(), layers=(2,))
    attachment = hiddenkey.attach(model, config)
    runs = []
    model.get_base_model().model.layers[0].mlp.register_forward_hook(lambda *_: runs.append(1))
    for _ in range(2):  # the first pass looks whether it may share
        runs.clear()
        with attachment.own_loss(inputs["labels"]) as own:
            logits = model(**without_labels(inputs)).logits
            own.total(own_loss("classification", logits, inputs["labels"])).backward()
    assert len(runs) == 1
    assert attachment.losses["consistency"] > 0


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("method", ["hiddenkey", "hiddenkey-minus"])
def test_a_loss_that_is_never_added_up_is_refused(method):
    model, inputs = lora_model("bert"), batch()
    attachment = hiddenkey.attach(model, method)
    with (
        pytest.raises(ConsistencyError, match=r"not added up, .* train on own.total\(your_loss\)"),
        attachment.own_loss(inputs["labels"]),
    ):
        model(**without_labels(inputs)).logits.mean()
    with attachment.own_loss(inputs["labels"]) as own:  # nothing of it is left
        own.total(model(**without_labels(inputs)).logits.mean())


def test_an_error_of_the_scripts_own_is_not_hidden():
    model, inputs = lora_model("bert"), batch()
    attachment = hiddenkey.attach(model, "hiddenkey")
    with pytest.raises(RuntimeError, match="size mismatch"), attachment.own_loss(inputs["labels"]):
        model(**without_labels(inputs)).logits @ torch.ones(7)
    with attachment.own_loss(inputs["labels"]) as own:
        own.total(model(**without_labels(inputs)).logits.mean())


def test_a_pass_of_another_model_is_refused():
    attachment = hiddenkey.attach(lora_model("bert"), "hiddenkey")
    other, inputs = lora_model("bert"), batch()
    with (
        pytest.raises(ConsistencyError, match=r"own_loss saw no training pass of the attached"),
        attachment.own_loss(inputs["labels"]) as own,
    ):
        own.total(other(**inputs).loss)


def test_one_pass_and_one_total_for_each_block():
    model, inputs = lora_model("bert"), batch()
    attachment = hiddenkey.attach(model, "hiddenkey")
    with (
        pytest.raises(ConsistencyError, match=r"own_loss is for one training pass, got 2"),
        attachment.own_loss(inputs["labels"]),
    ):
        [model(**without_labels(inputs)) for _ in range(2)]
    with (
        pytest.raises(ConsistencyError, match=r"own.total was called twice"),
        attachment.own_loss(inputs["labels"]) as own,
    ):
        own.total(own.total(model(**without_labels(inputs)).logits.mean()))
    with (
        pytest.raises(ConsistencyError, match=r"own_loss is open already"),
        attachment.own_loss(inputs["labels"]),
    ):
        attachment.own_loss(inputs["labels"])


def test_what_cannot_be_added_is_refused_before_the_pass():
    model = lora_model("bert")
    both = hiddenkey.attach(model, DropoutConfig(DROPS, Consistency(backward="both")))
    with pytest.raises(ConsistencyError, match=r"backward='both' averages .*; use backward='one'"):
        both.own_loss(batch()["labels"])
    causal = hiddenkey.attach(lora_model("llama", "causal"), "hiddenkey")
    with pytest.raises(ConsistencyError, match=r"ForCausalLM .* got no labels; use own_loss\(lab"):
        causal.own_loss()


def test_without_own_loss_a_pass_without_labels_names_it():
    model, inputs = lora_model("bert"), batch()
    hiddenkey.attach(model, "hiddenkey")
    with pytest.raises(ConsistencyError, match=r"for a loss of your own, hold the pass by attach"):
        model(**without_labels(inputs))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_loss_of_the_scripts_own_beside_an_untrained_consistency_loss_is_refused(family):
    """Its weight would change nothing, though it is logged."""
    task = TASKS[family]
    model, inputs = lora_model(family, task), batch(task)
    config = hiddenkey.method("hiddenkey", rate=0.3)
    hiddenkey.attach(model, config, lm_loss="full" if family == "llama" else "auto")
    own_loss(task, model(**inputs).logits, inputs["labels"]).backward()
    with pytest.raises(ConsistencyError, match="was not trained on; hold each pass by"):
        model(**inputs)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_loss_from_hidden_states_beside_an_untrained_consistency_loss_is_refused(family):
    """As contrastive losses are; a language model's logits are not even there then."""
    model, inputs = lora_model(family, TASKS[family]), batch(TASKS[family])
    hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3))
    states = model(**inputs, output_hidden_states=True).hidden_states[-1]
    states.mean(1).square().sum().backward()
    with pytest.raises(ConsistencyError, match=r"or from hidden states, .* was not trained on"):
        model(**inputs)


def test_a_loss_from_hidden_states_beside_a_trained_consistency_loss_goes_on():
    model, inputs = lora_model("bert"), batch()
    hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3))
    for _ in range(2):
        output = model(**inputs, output_hidden_states=True)
        (output.loss + output.hidden_states[-1].square().mean()).backward()


def test_passes_that_are_trained_on_later_or_in_part_go_on():
    model, inputs = lora_model("bert"), batch()
    attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3))
    first, second = model(**inputs), model(**inputs)  # one backward pass for both
    (first.loss + second.loss).backward()
    output = model(**inputs)
    (output.loss + output.logits.square().mean()).backward()  # a term beside the model's loss
    with attachment.own_loss(inputs["labels"]) as own:
        own.total(own_loss("classification", model(**inputs).logits, inputs["labels"])).backward()
    model(**inputs)  # never back-propagated: looking at a loss is no training
    model(**inputs).loss.backward()


def test_several_labels_of_a_sequence_are_no_distribution_to_compare():
    model, inputs = lora_model("bert"), without_labels(batch())
    attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3))
    several = torch.ones(len(inputs["input_ids"]), LABELS)
    with pytest.raises(ConsistencyError, match=r"has one class; set model\.config"):
        attachment.own_loss(several)
    soft = several / LABELS  # label smoothing by hand, mixed labels
    with attachment.own_loss(soft) as own:
        own.total(nn.functional.cross_entropy(model(**inputs).logits, soft)).backward()


def test_a_copy_made_inside_of_the_block_holds_none():
    model = lora_model("bert", "classification")
    inputs = batch("classification")
    labels = inputs.pop("labels")
    attachment = hiddenkey.attach(model, "hiddenkey")
    with attachment.own_loss(labels) as own:
        copies = [copy.deepcopy(model)]
        own.total(nn.functional.cross_entropy(model(**inputs).logits, labels))
        copies.append(copy.deepcopy(model))
    for twin in copies:
        for _ in range(2):
            twin(**inputs, labels=labels)
        assert attachment_of(twin).losses["consistency"] > 0
