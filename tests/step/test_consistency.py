"""The second pass and its loss, against two passes compared by hand."""

import dataclasses
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from torch import Tensor

import hiddenkey
from hiddenkey import Consistency, ConsistencyError, Drop, DropoutConfig, anatomy
from hiddenkey.framework.compensation.kl import bidirectional_kl
from models import (
    DECODERS,
    ENCODERS,
    FAMILIES,
    FAMILY_TASKS,
    LAYER_STACK,
    PAD,
    assert_same_gradients,
    batch,
    configuration,
    gradients,
    kl_by_hand,
    lora_model,
    plain_model,
    run,
    seeded,
    step,
    transformer_in,
)

NOISE = hiddenkey.method("hiddenkey-minus", rate=0.4)


def config(kind: str = "kl", **settings) -> DropoutConfig:
    return dataclasses.replace(NOISE, consistency=Consistency(kind, **settings))


# ---------------------------------------------------------------- by hand, in float64


def js_by_hand(one: Tensor, inference: Tensor) -> Tensor:
    p, q = one.double().softmax(-1), inference.double().softmax(-1)
    return (p * (p.log() - q.log())).sum(-1)


def mixture_by_hand(one: Tensor, inference: Tensor) -> Tensor:
    p, q = one.double().softmax(-1), inference.double().softmax(-1)
    mean = (p + q) / 2
    return (mean * (mean.log() - (p.log() + q.log()) / 2)).sum(-1)


DIVERGENCES = {"kl": kl_by_hand, "js": js_by_hand, "mixture": mixture_by_hand}


class LastStates:
    def __init__(self, family: str, model) -> None:
        stack = transformer_in(model).get_submodule(LAYER_STACK[family])
        stack[-1].register_forward_hook(self._keep)

    def _keep(self, module, args, output) -> None:
        self.states = output[0] if isinstance(output, tuple) else output


def divergence_by_hand(task: str, kind: str, one, two, inputs) -> Tensor:
    """Mean over sequences, over visible tokens then sequences, or over labelled tokens."""
    rows = DIVERGENCES[kind](one, two)
    if task == "classification":
        return rows.mean()
    if task == "regression":
        seen = inputs["attention_mask"].double()
        return ((rows * seen).sum(-1) / seen.sum(-1)).mean()
    labelled = inputs["labels"][:, 1:] != -100
    return rows[:, :-1][labelled].mean()


def two_passes_by_hand(family, task, kind, inputs, seed=0, both=False, **build):
    """Run both passes on a model without the consistency loss, one after the other.

    Returns the model, the task losses of the other and the trained pass, and the divergence.
    """
    model = lora_model(family, task, **build)
    hiddenkey.attach(model, NOISE)
    last = LastStates(family, model)

    def one_pass():
        output = model(**inputs)
        rows = last.states if task == "regression" else output.logits
        return output.loss, rows

    with seeded(seed):
        with torch.set_grad_enabled(both):
            if kind != "kl":
                model.eval()
            other_task, other = one_pass()
            model.train()
        task_loss, trained = one_pass()
    return model, other_task, task_loss, divergence_by_hand(task, kind, trained, other, inputs)


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize(("family", "task"), FAMILY_TASKS)
def test_the_loss_is_the_task_loss_plus_weight_times_divergence(family, task, padding, kind):
    inputs = batch(task, padding)
    by_hand, _, task_loss, divergence = two_passes_by_hand(family, task, kind, inputs)
    expected = task_loss + 2.5 * divergence
    expected.backward()

    model = lora_model(family, task)
    attachment = hiddenkey.attach(model, config(kind, weight=2.5))
    loss, found = step(model, inputs)
    assert divergence > 1e-4
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert attachment.losses == {
        "task": pytest.approx(task_loss.item(), rel=1e-6),
        "consistency": pytest.approx(2.5 * divergence.item(), rel=1e-4),
    }
    assert sum(attachment.losses.values()) == pytest.approx(loss, rel=1e-6)
    assert_same_gradients(found, gradients(by_hand), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["kl", "mixture"])
@pytest.mark.parametrize(("family", "task"), FAMILY_TASKS)
def test_both_branches_carry_gradient(family, task, kind):
    """The task loss is the mean over both passes; HiddenCut's is that of the pass without noise."""
    inputs = batch(task)
    by_hand, other, trained, divergence = two_passes_by_hand(family, task, kind, inputs, both=True)
    task_loss = (trained + other) / 2 if kind == "kl" else other
    expected = task_loss + 1.5 * divergence
    expected.backward()
    model = lora_model(family, task)
    attachment = hiddenkey.attach(model, config(kind, weight=1.5, backward="both"))
    loss, found = step(model, inputs)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert attachment.losses["task"] == pytest.approx(task_loss.item(), rel=1e-5)
    assert sum(attachment.losses.values()) == pytest.approx(loss, rel=1e-6)
    assert_same_gradients(found, gradients(by_hand), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("on", ["logits", "representation"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_place_of_comparison_can_be_chosen_for_classification(family, on):
    inputs = batch("classification", "right")
    model = lora_model(family)
    hiddenkey.attach(model, NOISE)
    last = LastStates(family, model)
    with seeded(0), torch.no_grad():
        first = model(**inputs)
        first_states = last.states
        second = model(**inputs)
    pair = (second.logits, first.logits) if on == "logits" else (last.states, first_states)
    task = "classification" if on == "logits" else "regression"
    expected = divergence_by_hand(task, "kl", *pair, inputs)
    attachment = hiddenkey.attach(model, config(on=on))
    run(model, inputs)
    assert attachment.losses["consistency"] == pytest.approx(expected.item(), rel=1e-4)


def test_regression_without_an_attention_mask_takes_all_tokens():
    inputs = batch("regression", "none")
    losses = []
    for given in (inputs, {k: v for k, v in inputs.items() if k != "attention_mask"}):
        model = lora_model("bert", "regression")
        attachment = hiddenkey.attach(model, config())
        run(model, given)
        losses.append(attachment.losses["consistency"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] > 0


@pytest.mark.parametrize("family", DECODERS)
def test_labels_of_a_language_model_may_be_sparse(family):
    inputs = batch("causal")
    inputs["labels"][:, 3:6] = -100
    inputs["labels"][2] = -100
    _, _, task_loss, divergence = two_passes_by_hand(family, "causal", "kl", inputs)
    model = lora_model(family, "causal")
    hiddenkey.attach(model, config())
    assert run(model, inputs).loss.item() == pytest.approx(
        (task_loss + divergence).item(), rel=1e-5
    )


# ---------------------------------------------------------------- the second forward pass itself


class Calls:
    """Records each run of the model's body: gradient mode, batch size, training flags, labels."""

    def __init__(self, family: str, model) -> None:
        self.seen: list[dict] = []
        layer = transformer_in(model).get_submodule(LAYER_STACK[family])[0]
        self._transformer = transformer_in(model)
        layer.register_forward_pre_hook(self._enter)

    def _enter(self, module, args) -> None:
        self.seen.append(
            {
                "grad": torch.is_grad_enabled(),
                "size": args[0].shape[0],
                "training": {m.training for m in self._transformer.modules()},
            }
        )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({}, {"grad": False, "size": 4, "training": {True}}),
        ({"kind": "js"}, {"grad": False, "size": 4, "training": {False}}),
        ({"backward": "both"}, {"grad": True, "size": 4, "training": {True}}),
        ({"fraction": 0.5}, {"grad": False, "size": 2, "training": {True}}),
        ({"fraction": 0.1}, {"grad": False, "size": 1, "training": {True}}),
        ({"fraction": 0.5, "backward": "both"}, {"grad": True, "size": 2, "training": {True}}),
    ],
    ids=str,
)
def test_how_the_other_pass_runs(family, settings, first):
    model = lora_model(family)
    calls = Calls(family, model)
    hiddenkey.attach(model, config(**settings))
    step(model, batch())
    assert calls.seen == [first, {"grad": True, "size": 4, "training": {True}}]


@pytest.mark.parametrize("kind", ["kl", "js"])
@pytest.mark.parametrize(("family", "task"), [("bert", "regression"), ("llama", "causal")])
def test_the_other_pass_saves_nothing_for_backward_and_its_rows_are_constants(family, task, kind):
    """With weight 0 the graph is that of the trained pass, but for the loss's own few nodes."""

    def saved_in_a_forward(settings):
        model = lora_model(family, task)
        hiddenkey.attach(model, settings)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            run(model, batch(task))
        return len(sizes)

    alone = saved_in_a_forward(NOISE)
    one, both = saved_in_a_forward(config(kind)), saved_in_a_forward(config(backward="both"))
    assert alone < one < alone + 20
    assert both > 1.8 * alone


def test_the_rows_kept_of_the_other_pass_require_no_gradient(monkeypatch):
    from hiddenkey.step.consistency import TwoPassLoss

    kept = []
    before = TwoPassLoss.before
    monkeypatch.setattr(TwoPassLoss, "before", lambda *args: kept.append(before(*args)) or kept[-1])
    for task in ("classification", "regression"):
        model = lora_model("bert", task)
        hiddenkey.attach(model, config())
        step(model, batch(task))
    assert [other.rows.requires_grad for other in kept] == [False, False]
    assert [other.task_loss for other in kept] == [None, None]
    assert kept[0].rows.shape == (4, 3)
    assert kept[1].rows.shape[-1] == 32


@pytest.mark.parametrize("family", FAMILIES)
def test_training_flags_come_back_after_an_inference_pass(family):
    """Also the unusual ones, and also when the pass fails."""
    model = lora_model(family)
    attachment = hiddenkey.attach(model, config("js"))
    quiet = transformer_in(model).get_submodule(LAYER_STACK[family])[1]
    quiet.eval()
    flags = {name: module.training for name, module in model.named_modules()}
    step(model, batch())
    assert {name: module.training for name, module in model.named_modules()} == flags

    def fail(module, args):
        raise RuntimeError("out of memory")

    handle = quiet.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model(**batch())
    handle.remove()
    assert {name: module.training for name, module in model.named_modules()} == flags
    loss, _ = step(model, batch())
    assert sum(attachment.losses.values()) == pytest.approx(loss)


# ---------------------------------------------------------------- weight, every, fraction


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
    from hiddenkey.framework.patterns import PATTERNS

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
    from hiddenkey.framework.patterns import PATTERNS, span

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


# ---------------------------------------------------------------- scale


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
    from hiddenkey.framework.patterns import PATTERNS

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


# ---------------------------------------------------------------- when it is off, and refusals


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_off_in_evaluation_and_without_gradients(family):
    model = lora_model(family)
    calls = Calls(family, model)
    attachment = hiddenkey.attach(model, config())
    hiddenkey_free = lora_model(family)
    hiddenkey.attach(hiddenkey_free, NOISE)
    inputs = batch()
    with torch.no_grad():
        assert torch.equal(run(model, inputs).loss, run(hiddenkey_free, inputs).loss)
    model.eval()
    hiddenkey_free.eval()
    assert torch.equal(run(model, inputs).loss, run(hiddenkey_free, inputs).loss)
    assert len(calls.seen) == 2
    assert attachment.consistency_passes == 0
    assert attachment.losses == {}


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


@pytest.mark.parametrize("family", ENCODERS)
def test_masked_language_models_compare_the_labelled_tokens(family):
    from transformers import AutoModelForMaskedLM

    from models import configuration

    with seeded(0):
        model = AutoModelForMaskedLM.from_config(configuration(family)).train()
    inputs = batch("causal")
    inputs["labels"][:, 4:] = -100
    hiddenkey.attach(model, NOISE)
    with seeded(0), torch.no_grad():
        other, trained = model(**inputs), model(**inputs)
    rows = kl_by_hand(trained.logits, other.logits)[inputs["labels"] != -100]
    attachment = hiddenkey.attach(model, config())
    loss = run(model, inputs).loss.item()
    assert attachment.losses["consistency"] == pytest.approx(rows.mean().item(), rel=1e-4)
    assert loss == pytest.approx((trained.loss + rows.mean()).item(), rel=1e-5)


@pytest.mark.parametrize("family", ENCODERS)
def test_token_classifiers_compare_the_labelled_tokens(family):
    from transformers import AutoModelForTokenClassification

    from models import configuration

    with seeded(0):
        model = AutoModelForTokenClassification.from_config(
            configuration(family, num_labels=3)
        ).train()
    inputs = batch("causal")
    inputs["labels"] = torch.where(inputs["labels"] == -100, -100, inputs["labels"] % 3)
    hiddenkey.attach(model, NOISE)
    with seeded(0), torch.no_grad():
        other, trained = model(**inputs), model(**inputs)
    rows = kl_by_hand(trained.logits, other.logits)[inputs["labels"] != -100]
    attachment = hiddenkey.attach(model, config())
    run(model, inputs)
    assert attachment.losses["consistency"] == pytest.approx(rows.mean().item(), rel=1e-4)


def test_a_batch_of_embeddings_works_like_one_of_ids():
    model = lora_model("llama", "causal")
    attachment = hiddenkey.attach(model, config(fraction=0.5))
    inputs = batch("causal")
    run(model, inputs)
    expected = attachment.losses
    ids = inputs.pop("input_ids")
    embeddings = transformer_in(model).get_input_embeddings()(ids)
    run(model, {**inputs, "inputs_embeds": embeddings})
    assert attachment.losses == {k: pytest.approx(v, rel=1e-5) for k, v in expected.items()}


def test_bfloat16_models_compare_in_float32():
    model = plain_model("bert").to(torch.bfloat16)
    attachment = hiddenkey.attach(model, config())
    loss, found = step(model, batch())
    assert sum(attachment.losses.values()) == pytest.approx(loss, rel=1e-2)
    assert attachment.losses["consistency"] > 0
    assert all(g.isfinite().all() for g in found.values())


# ---------------------------------------------------------------- in bfloat16


@pytest.mark.parametrize(
    ("family", "task", "lm_loss"),
    [*((*case, "full") for case in FAMILY_TASKS), *((f, "causal", "chunked") for f in DECODERS)],
)
def test_the_other_pass_in_bfloat16_is_the_same_loss_to_its_precision(family, task, lm_loss):
    model = lora_model(family, task)
    inputs = batch(task)
    found = []
    for precision in ("same", "bfloat16"):
        attachment = hiddenkey.attach(model, config(precision=precision), lm_loss=lm_loss)
        loss, total = step(model, inputs)
        found.append((loss, attachment.losses["task"], attachment.losses["consistency"]))
        assert all(gradient.dtype == torch.float32 for gradient in total.values())
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)  # the trained pass is as it was
    assert found[1][2] == pytest.approx(found[0][2], rel=0.1)
    assert found[1][2] != found[0][2]


def test_the_other_pass_alone_is_in_bfloat16():
    model = lora_model("bert")
    dtypes = []
    last = transformer_in(model).get_submodule("bert.encoder.layer.1.output.dense")
    last.register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    attachment = hiddenkey.attach(model, config(precision="bfloat16"))
    step(model, batch())
    assert dtypes == [torch.bfloat16, torch.float32]
    assert "second pass bfloat16" in str(attachment)


def test_both_branches_have_one_precision():
    with pytest.raises(hiddenkey.ConfigError, match="bfloat16' is for a pass without gradient"):
        config(precision="bfloat16", backward="both")


@pytest.mark.parametrize("outputs", [1, 3])
def test_regression_on_images_compares_representations(outputs):
    """A softmax of one output is 1, and one of several measurements means nothing."""
    seeded(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        image_size=16, patch_size=4, num_labels=outputs, problem_type="regression",
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).train()
    inputs = {"pixel_values": torch.randn(4, 3, 16, 16), "labels": torch.randn(4, outputs)}
    attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3))
    states = []
    last = anatomy.find_layers(model)[-1].module
    last.register_forward_hook(lambda module, args, output: states.append(output))
    model(**inputs)
    rows = [s[0] if isinstance(s, tuple) else s for s in states]
    expected = bidirectional_kl(rows[1].flatten(0, 1), rows[0].flatten(0, 1)).mean()
    assert attachment.losses["consistency"] == pytest.approx(expected.item(), rel=1e-4)
    assert expected > 0
    refused = dataclasses.replace(attachment.config, consistency=Consistency(on="logits"))
    with pytest.raises(hiddenkey.ConfigError, match="means nothing for regression"):
        hiddenkey.attach(model, refused)


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
