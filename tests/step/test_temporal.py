"""The loss against earlier predictions, by hand in float64 from passes with known weights."""

from __future__ import annotations

import dataclasses
import logging
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor
from transformers import BartConfig, BartForQuestionAnswering

import hiddenkey
from hiddenkey import ConfigError, Consistency, ConsistencyError, Drop, DropoutConfig
from hiddenkey.step.history import History
from hiddenkey.step.identity import Identities
from models import (
    DECODERS,
    FAMILY_TASKS,
    PAD,
    VOCABULARY,
    assert_same_gradients,
    batch,
    gradients,
    kl_by_hand,
    lora_model,
    plain_model,
    seeded,
    step,
)
from task_models import batch_for, model_for

NOISE = hiddenkey.method("hiddenkey-minus", rate=0.4)
TOP = 5


def config(noise: DropoutConfig = NOISE, **settings: Any) -> DropoutConfig:
    return dataclasses.replace(noise, consistency=Consistency(target="history", **settings))


def change(model: Any, by: float = 0.03) -> None:
    """Move the trained weights, each by the same amount, as a step would."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += by


def shortened_by_hand(logits: Tensor, classes: Tensor) -> Tensor:
    p = logits.double().softmax(-1)
    kept = p.gather(-1, classes)
    return torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1).log()


def divergence_by_hand(task: str, now: Tensor, earlier: Tensor, inputs: dict) -> Tensor:
    if task == "classification":
        return kl_by_hand(now, earlier).mean()
    if task == "regression":
        return (now.double() - earlier.double()).square().mean()
    labelled = inputs["labels"][:, 1:] != -100
    now, earlier = now[:, :-1][labelled], earlier[:, :-1][labelled]
    classes = earlier.topk(TOP).indices
    return kl_by_hand(shortened_by_hand(now, classes), shortened_by_hand(earlier, classes)).mean()


@pytest.mark.parametrize(
    ("family", "task", "lm_loss"),
    [
        *((*case, "full") for case in FAMILY_TASKS),
        *((family, "causal", "chunked") for family in DECODERS),
    ],
)
def test_the_loss_is_the_task_loss_plus_the_divergence_from_the_earlier_pass(family, task, lm_loss):
    inputs = batch(task, "right")
    by_hand = lora_model(family, task)
    hiddenkey.attach(by_hand, NOISE)
    with seeded(1), torch.no_grad():
        earlier = by_hand(**inputs).logits
    change(by_hand)
    with seeded(2):
        output = by_hand(**inputs)
    divergence = divergence_by_hand(task, output.logits, earlier, inputs)
    expected = output.loss + 2.5 * divergence
    expected.backward()

    model = lora_model(family, task)
    attachment = hiddenkey.attach(model, config(weight=2.5, top=TOP), lm_loss=lm_loss)
    step(model, inputs, seed=1)
    assert attachment.losses["consistency"] == 0
    change(model)
    loss, found = step(model, inputs, seed=2)
    assert divergence > 1e-4
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert attachment.losses["consistency"] == pytest.approx(2.5 * divergence.item(), rel=1e-4)
    assert sum(attachment.losses.values()) == pytest.approx(loss, rel=1e-6)
    assert_same_gradients(found, gradients(by_hand), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("task", ["labels", "answers", "choices", "tokens"])
def test_each_task_type_is_compared_as_its_task_loss_is(task):
    inputs = batch_for(task)
    by_hand = model_for("bert", task)
    hiddenkey.attach(by_hand, NOISE)
    with seeded(1), torch.no_grad():
        earlier = by_hand(**inputs)
    change(by_hand)
    with seeded(2):
        output = by_hand(**inputs)
    if task == "answers":
        hidden = torch.where(inputs["attention_mask"].bool(), 0.0, -300.0)
        tokens = inputs["input_ids"].shape[1]
        expected = 0
        for name in ("start", "end"):
            rows = kl_by_hand(output[f"{name}_logits"] + hidden, earlier[f"{name}_logits"] + hidden)
            expected = expected + 0.5 * rows[inputs[f"{name}_positions"] < tokens].mean()
    elif task == "labels":
        pairs = [torch.stack([each.logits, 0 * each.logits], -1) for each in (output, earlier)]
        expected = kl_by_hand(*pairs).mean()
    else:
        rows = kl_by_hand(output.logits, earlier.logits)
        expected = (rows if task == "choices" else rows[inputs["labels"] != -100]).mean()
    (output.loss + expected).backward()

    model = model_for("bert", task)
    attachment = hiddenkey.attach(model, config())
    step(model, inputs, seed=1)
    change(model)
    _, found = step(model, inputs, seed=2)
    assert expected > 1e-4
    assert attachment.losses["consistency"] == pytest.approx(expected.item(), rel=1e-4)
    assert_same_gradients(found, gradients(by_hand), rtol=1e-3, atol=1e-5)


def without_noise(task: str = "classification", family: str = "bert", **settings: Any):
    model = lora_model(family, task)
    lm_loss = settings.pop("lm_loss", "auto")
    quiet = config(DropoutConfig(), **settings)
    return model, hiddenkey.attach(model, quiet, lm_loss=lm_loss)


@pytest.mark.parametrize("task", ["classification", "causal"])
def test_examples_are_recognised_in_another_order_and_with_other_padding(task):
    family = "llama" if task == "causal" else "bert"
    inputs = batch(task, "right", tokens=9)
    order = torch.tensor([2, 0, 3, 1])
    wider = {
        name: torch.cat([value, torch.full((4, 2), -100 if name == "labels" else 0)], 1)
        if value.dim() == 2
        else value
        for name, value in inputs.items()
    }
    model, attachment = without_noise(task, family)
    step(model, inputs)
    change(model)
    step(model, inputs)
    expected = attachment.losses["consistency"]
    again, other = without_noise(task, family)
    step(again, inputs)
    change(again)
    step(again, {name: value[order] for name, value in wider.items()})
    assert expected > 1e-4
    assert other.losses["consistency"] == pytest.approx(expected, rel=1e-4)
    assert len(other.history) == 4
    assert other.history.recognised == 4


def test_only_examples_that_were_seen_are_compared():
    """The mean is over the whole batch, in which new examples count 0."""
    inputs = batch("classification", "right", size=8)
    first, all_of_them = {n: v[:4] for n, v in inputs.items()}, inputs
    model, attachment = without_noise()
    step(model, first)
    change(model)
    step(model, first)
    expected = attachment.losses["consistency"]
    model, attachment = without_noise()
    step(model, first)
    change(model)
    step(model, all_of_them)
    assert attachment.losses["consistency"] == pytest.approx(expected / 2, rel=1e-4)
    assert len(attachment.history) == 8


def test_a_running_mean_begins_with_the_first_prediction():
    inputs = batch("classification", "right")
    model, attachment = without_noise(momentum=0.75)
    seen = []
    for _ in range(4):
        with torch.no_grad():
            seen.append(model.eval()(**inputs).logits.double().softmax(-1))
        step(model.train(), inputs)
        change(model)
    mean = seen[0]
    for p in seen[1:3]:
        mean = 0.75 * mean + 0.25 * p
    expected = kl_by_hand(seen[3].log(), mean.log()).mean()
    assert attachment.losses["consistency"] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("lm_loss", ["full", "chunked"])
def test_a_language_models_running_mean_is_the_whole_one_shortened_to_the_first_classes(lm_loss):
    inputs = batch("causal", "right")
    labelled = inputs["labels"][:, 1:] != -100
    kept = {"momentum": 0.75, "top": TOP, "lm_loss": lm_loss}
    model, attachment = without_noise("causal", "llama", **kept)
    seen = []
    for number in range(4):
        with torch.no_grad():
            logits = model.eval()(**inputs).logits.double()[:, :-1][labelled]
        seen.append(logits.softmax(-1))
        step(model.train(), inputs)
        change(model, by=0.03 if number != 1 else -0.1)
    classes = [p.topk(TOP).indices for p in seen]
    assert not torch.equal(classes[0].sort().values, classes[2].sort().values)
    mean = seen[0]
    for p in seen[1:3]:  # over the whole vocabulary
        mean = 0.75 * mean + 0.25 * p
    now, earlier = (shortened_by_hand(p.log(), classes[0]) for p in (seen[3], mean))
    expected = kl_by_hand(now, earlier).mean()
    assert expected > 1e-4
    assert attachment.losses["consistency"] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("lm_loss", ["full", "chunked"])
@pytest.mark.parametrize("earlier_top", [12, 7])
def test_a_resumed_training_may_keep_fewer_classes(earlier_top, lm_loss):
    inputs = batch("causal", "right")
    found = []
    for first_top in (earlier_top, TOP):
        model, attachment = without_noise("causal", "llama", top=first_top, lm_loss=lm_loss)
        step(model, inputs)
        kept = attachment.history.state_dict()
        change(model)
        attachment = hiddenkey.attach(model, config(DropoutConfig(), top=TOP), lm_loss=lm_loss)
        attachment.history.load_state_dict(kept)
        _, gradient = step(model, inputs)
        found.append((attachment.losses["consistency"], gradient))
    assert found[1][0] > 1e-4
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert_same_gradients(found[0][1], found[1][1])


@pytest.mark.parametrize("tops", [(TOP, VOCABULARY), (VOCABULARY, TOP), (TOP, 12)])
def test_what_cannot_be_read_with_another_number_of_classes_counts_as_unseen(tops):
    inputs = batch("causal", "right")
    model, attachment = without_noise("causal", "llama", top=tops[0], lm_loss="full")
    step(model, inputs)
    kept = attachment.history.state_dict()
    change(model)
    attachment = hiddenkey.attach(model, config(DropoutConfig(), top=tops[1]), lm_loss="full")
    attachment.history.load_state_dict(kept)
    step(model, inputs)
    assert attachment.losses["consistency"] == 0
    change(model)
    step(model, inputs)
    assert attachment.losses["consistency"] > 1e-4


def test_a_running_mean_counts_passes_that_are_not_compared():
    """Half of the sequences are compared in each pass, and the mean is of all passes."""
    inputs = batch("causal", "right")
    half, all_of_them = {}, {}
    for parts, fraction in ((half, 0.5), (all_of_them, 1.0)):
        for lm_loss in ("full", "chunked"):
            model, attachment = without_noise(
                "causal", "llama", momentum=0.5, fraction=fraction, lm_loss=lm_loss
            )
            for _ in range(3):
                step(model, inputs)
                change(model)
            parts[lm_loss] = attachment.history.state_dict()["values"]
    for lm_loss in ("full", "chunked"):
        torch.testing.assert_close(half[lm_loss], all_of_them[lm_loss])
    torch.testing.assert_close(half["full"], half["chunked"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lm_loss", ["full", "chunked"])
def test_every_keeps_all_predictions_and_compares_some(lm_loss):
    """With ``every=2`` the third pass is compared with the second, twice as heavy."""
    inputs = batch("causal", "right")
    model, attachment = without_noise("causal", "llama", every=2, lm_loss=lm_loss)
    plain, other = without_noise("causal", "llama", lm_loss=lm_loss)
    shown = []
    for _ in range(3):
        step(model, inputs)
        step(plain, inputs)
        shown.append((attachment.losses.get("consistency"), other.losses["consistency"]))
        change(model)
        change(plain)
    assert [ours for ours, _ in shown] == [0, None, pytest.approx(2 * shown[2][1], rel=1e-5)]


@pytest.mark.parametrize("lm_loss", ["full", "chunked"])
def test_a_fraction_of_one_half_compares_two_of_four_twice_as_heavily(lm_loss):
    inputs = batch("causal", "right")
    single = []
    for index in range(4):
        others = inputs["labels"].clone()
        model, attachment = without_noise("causal", "llama", lm_loss="full")
        step(model, inputs)
        change(model)
        step(model, inputs)
        whole = attachment.losses["consistency"]
        # the mean over all labelled tokens, of which the other sequences' count 0
        model, attachment = without_noise("causal", "llama", lm_loss="full")
        step(model, {name: value[index : index + 1] for name, value in inputs.items()})
        change(model)
        step(model, inputs)
        single.append(attachment.losses["consistency"])
        assert torch.equal(others, inputs["labels"])
    assert sum(single) == pytest.approx(whole, rel=1e-4)
    model, attachment = without_noise("causal", "llama", fraction=0.5, lm_loss=lm_loss)
    step(model, inputs, seed=0)
    change(model)
    step(model, inputs, seed=3)
    with seeded(3):
        chosen = torch.randperm(4)[:2]
    expected = 2 * sum(single[index] for index in chosen.tolist())
    assert attachment.losses["consistency"] == pytest.approx(expected, rel=1e-4)
    assert len(attachment.history) == 4


def test_a_step_has_one_forward_pass():
    model, _ = without_noise()
    calls = []
    model.get_base_model().bert.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        step(model, batch("classification"))
    assert len(calls) == 3


def test_a_prediction_that_was_no_number_is_not_compared():
    inputs = batch("classification", "right")
    model, attachment = without_noise()
    step(model, inputs)
    history = attachment.history
    history._values[0] = torch.nan
    change(model)
    step(model, inputs)
    lost = attachment.losses["consistency"]
    step(model, inputs)
    assert 0 < lost < 1
    assert attachment.losses["consistency"] == pytest.approx(0, abs=1e-6)


def test_evaluation_and_passes_without_gradient_keep_nothing():
    inputs = batch("classification", "right")
    model, attachment = without_noise()
    model.eval()(**inputs)
    with torch.no_grad():
        model.train()(**inputs)
    assert len(attachment.history) == 0


def test_a_loss_of_ones_own_is_added_to():
    inputs = batch("classification", "right")
    labels = inputs.pop("labels")
    model, attachment = without_noise(weight=3.0)

    def own_step() -> float:
        with attachment.own_loss(labels) as own:
            loss = own.total(torch.nn.functional.cross_entropy(model(**inputs).logits, labels))
        loss.backward()
        return loss.item()

    own_step()
    change(model)
    loss = own_step()
    expected, other = without_noise(weight=3.0)
    step(expected, {**inputs, "labels": labels})
    change(expected)
    assert loss == pytest.approx(step(expected, {**inputs, "labels": labels})[0], rel=1e-5)
    assert attachment.losses == pytest.approx(other.losses, rel=1e-5)


# ---------------------------------------------------------------- answers, however they are padded

LENGTHS = (6, 4, 5)


def answering(family: str) -> Any:
    if family != "bart":
        return model_for(family, "answers")
    sizes = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "init_std": 0.2}
    sizes |= {"encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 48}
    sizes |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    with seeded(0):
        return BartForQuestionAnswering(
            BartConfig(vocab_size=VOCABULARY, pad_token_id=PAD, **sizes)
        ).train()


def questions(family: str, side: str, tokens: int) -> dict[str, Tensor]:
    """Return the same texts of different lengths, padded to so many tokens."""
    draws = torch.Generator().manual_seed(2)
    size = (len(LENGTHS), tokens)
    inputs = {name: torch.zeros(size, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    first = [tokens - length if side == "left" else 0 for length in LENGTHS]
    for row, (start, length) in enumerate(zip(first, LENGTHS, strict=True)):
        where = slice(start, start + length)
        inputs["input_ids"][row, where] = torch.randint(3, VOCABULARY, (length,), generator=draws)
        inputs["attention_mask"][row, where] = 1
    if family != "bart":  # which counts its places from the padding on
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
    inputs["start_positions"] = torch.tensor(first) + 1
    inputs["end_positions"] = torch.tensor(first) + 3
    return inputs


def divergence_of_answers(now: Any, earlier: Any, *inputs: dict[str, Tensor]) -> Tensor:
    """Return the mean over texts, then over start and end, each over the text's own tokens."""
    present, past = (each["attention_mask"].bool() for each in inputs)
    values = [
        kl_by_hand(getattr(now, name)[row][present[row]], getattr(earlier, name)[row][past[row]])
        for name in ("start_logits", "end_logits")
        for row in range(len(present))
    ]
    return torch.stack(values).mean()


@pytest.mark.parametrize("by", [0.0, 0.03], ids=["same weights", "other weights"])
@pytest.mark.parametrize(("first", "second"), [(6, 9), (9, 6)], ids=["wider", "narrower"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "bart"])
def test_answers_are_compared_over_the_texts_own_tokens(family, side, first, second, by):
    before, after = questions(family, side, first), questions(family, side, second)
    by_hand = answering(family).eval()
    with torch.no_grad():
        earlier = by_hand(**before)
    change(by_hand, by)
    output = by_hand(**after)
    expected = divergence_of_answers(output, earlier, after, before)
    (output.loss + expected).backward()
    moves = by > 0 or (family, side) == ("bart", "left")
    assert (expected > 1e-4) == moves

    model = answering(family)
    attachment = hiddenkey.attach(model, config(DropoutConfig()))
    step(model, before)
    change(model, by)
    _, found = step(model, after)
    assert attachment.history.recognised == len(LENGTHS)
    assert attachment.losses["consistency"] == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)
    assert_same_gradients(found, gradients(by_hand), rtol=1e-3, atol=1e-5)


def test_a_running_mean_of_answers_does_not_depend_on_padding():
    found = []
    for widths in ((6, 6, 6, 6), (6, 9, 7, 10)):
        model = answering("llama")
        attachment = hiddenkey.attach(model, config(DropoutConfig(), momentum=0.75))
        for tokens in widths:
            step(model, questions("llama", "left", tokens))
            change(model)
        found.append(attachment.losses["consistency"])
    assert found[0] > 1e-4
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_the_padding_token_marks_an_answers_tokens_where_no_mask_does():
    before, after = (questions("llama", "right", tokens) for tokens in (6, 9))
    del before["attention_mask"], after["attention_mask"]
    model = answering("llama")
    attachment = hiddenkey.attach(model, config(DropoutConfig()))
    step(model, before)
    step(model, after)
    assert attachment.history.recognised == len(LENGTHS)
    assert attachment.losses["consistency"] == pytest.approx(0, abs=1e-6)


# ---------------------------------------------------------------- texts that are packed

TEXTS = [torch.tensor(ids) for ids in ([5, 6, 7, 8], [9, 10, 11], [12, 13, 14, 15, 16], [17, 18])]


def packed(*order: int) -> dict[str, Any]:
    """Return one row of texts, as TRL's collator flattens a batch."""
    ids = torch.cat([TEXTS[each] for each in order])
    places = torch.cat([torch.arange(len(TEXTS[each])) for each in order])
    labels = ids.masked_fill(places == 0, -100)
    row = {"input_ids": ids[None], "position_ids": places[None], "labels": labels[None]}
    return {**row, "use_cache": False}  # as Trainer has it: with a cache texts see each other


def apart() -> dict[str, Tensor]:
    """Return the same texts, a row for each."""
    ids = torch.nn.utils.rnn.pad_sequence(TEXTS, batch_first=True, padding_value=PAD)
    mask = (ids != PAD).long()
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, 0] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("lm_loss", ["full", "chunked"])
def test_packed_texts_are_recognised_one_by_one(lm_loss):
    found = []
    for inputs in ([apart()] * 2, [packed(0, 1, 2, 3), packed(2, 0, 3, 1)]):
        model = plain_model("llama", "causal")
        attachment = hiddenkey.attach(model, config(DropoutConfig(), top=TOP), lm_loss=lm_loss)
        for each in inputs:
            _, gradient = step(model, each)
            change(model)
        assert len(attachment.history) == attachment.history.recognised == len(TEXTS)
        found.append((attachment.losses["consistency"], gradient))
    assert found[0][0] > 1e-4
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-3)
    assert_same_gradients(found[1][1], found[0][1], rtol=1e-3, atol=1e-5)


def test_only_packed_texts_that_were_seen_are_compared():
    model = plain_model("llama", "causal")
    attachment = hiddenkey.attach(model, config(DropoutConfig(), top=TOP))
    step(model, packed(0, 1))
    step(model, packed(2, 1, 3))
    assert len(attachment.history) == 4
    assert attachment.history.recognised == 1
    assert attachment.losses["consistency"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("lm_loss", ["full", "chunked"])
def test_a_fraction_chooses_rows_with_all_texts_in_them(lm_loss):
    rows = [packed(0, 1), packed(2, 3)]  # as long as each other
    both = {
        name: torch.cat([row[name] for row in rows]) if name != "use_cache" else False
        for name in rows[0]
    }

    def compared(first: dict[str, Any], **settings: Any) -> float:
        model = plain_model("llama", "causal")
        attachment = hiddenkey.attach(model, config(DropoutConfig(), **settings), lm_loss=lm_loss)
        step(model, first)
        change(model)
        step(model, both, seed=3)
        return attachment.losses["consistency"]

    alone = [compared(row) for row in rows]
    assert sum(alone) == pytest.approx(compared(both), rel=1e-4)
    with seeded(3):
        chosen = int(torch.randperm(2)[0])
    assert compared(both, fraction=0.5) == pytest.approx(2 * alone[chosen], rel=1e-4)


def test_texts_that_predict_each_other_are_one_example():
    model = plain_model("llama", "causal")
    attachment = hiddenkey.attach(model, config(DropoutConfig(), top=TOP))
    whole = packed(0, 1, 2)
    whole["labels"] = whole["input_ids"].clone()
    step(model, whole)
    step(model, whole)
    assert len(attachment.history) == attachment.history.recognised == 1
    assert attachment.losses["consistency"] == pytest.approx(0, abs=1e-6)


# ---------------------------------------------------------------- whose predictions they are


def test_numbers_of_the_script_reach_the_loss_and_not_the_model():
    inputs = batch("classification", "right")
    model, attachment = without_noise()
    numbers = torch.tensor([10, 11, 12, 13])
    step(model, {**inputs, "example_index": numbers})
    change(model)
    step(model, {**inputs, "example_index": numbers})
    assert attachment.losses["consistency"] > 1e-4
    assert attachment.history.state_dict()["keys"].tolist() == [10, 11, 12, 13]
    model.eval()(**inputs, example_index=numbers)


def test_a_number_that_repeats_is_refused():
    inputs = batch("classification", "right")
    model, _ = without_noise()
    with pytest.raises(ConsistencyError, match="example_index 7 stands for two different examples"):
        step(model, {**inputs, "example_index": torch.tensor([7, 8, 7, 9])})


def test_a_data_set_that_changes_under_its_numbers_is_refused():
    model, _ = without_noise()
    numbers = torch.arange(4)
    step(model, {**batch("classification", seed=0), "example_index": numbers})
    with pytest.raises(ConsistencyError, match="or the data set changed between epochs"):
        step(model, {**batch("classification", seed=1), "example_index": numbers})


@pytest.mark.parametrize("numbers", [torch.arange(3), torch.rand(4), torch.zeros(4, 1).long()])
def test_one_whole_number_for_each_example_is_needed(numbers):
    model, _ = without_noise()
    with pytest.raises(ConsistencyError, match="one whole number for each of the 4 examples"):
        step(model, {**batch("classification"), "example_index": numbers})


@pytest.mark.parametrize("lm_loss", ["full", "chunked"])
def test_a_text_with_other_labelled_tokens_is_another_example(lm_loss):
    inputs = batch("causal", "right")
    model, attachment = without_noise("causal", "llama", lm_loss=lm_loss)
    step(model, inputs)
    fewer = {**inputs, "labels": inputs["labels"].clone()}
    fewer["labels"][0, :4] = -100
    step(model, fewer)
    assert len(attachment.history) == 5
    assert attachment.history.recognised == 3


def test_labels_are_needed():
    inputs = batch("classification")
    del inputs["labels"]
    model, _ = without_noise()
    with pytest.raises(ConsistencyError, match="got no labels"):
        model(**inputs)


def test_an_endless_stream_is_refused_when_the_store_is_full(monkeypatch):
    monkeypatch.setattr("hiddenkey.step.history.LARGEST_GIB", 30 * 12 / 2**30)
    model, _ = without_noise()
    step(model, batch("classification", seed=0))
    # 256 rows are made room for at once; 30 may be in use
    for seed in range(1, 7):
        step(model, batch("classification", seed=seed))
    with pytest.raises(ConsistencyError, match="a streamed data set without end never repeats"):
        step(model, batch("classification", seed=7))


def test_the_hash_depends_on_order_and_content_alone():
    model, attachment = without_noise()
    inputs = {
        "input_ids": torch.tensor([[5, 6, 7, 0], [7, 6, 5, 0], [0, 5, 6, 7], [5, 6, 8, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 0]]),
        "labels": torch.zeros(4, dtype=torch.long),
    }
    step(model, inputs)
    keys = attachment.history.state_dict()["keys"].tolist()
    assert len(keys) == 3
    del inputs["attention_mask"]  # then the padding token tells
    step(model, inputs)
    assert attachment.history.state_dict()["keys"].tolist() == keys


# ---------------------------------------------------------------- what is kept


@pytest.mark.parametrize(("family", "task"), [("bert", "classification"), ("llama", "causal")])
def test_a_stored_history_goes_on_bit_equal(family, task):
    inputs = batch(task, "right")
    model, attachment = without_noise(task, family)
    step(model, inputs)
    state = attachment.history.state_dict()
    change(model)
    expected, _ = step(model, inputs)
    again, other = without_noise(task, family)
    other.history.load_state_dict(state)
    change(again)
    assert step(again, inputs)[0] == expected
    assert other.history.bytes == attachment.history.bytes > 0


def kept(values: dict[int, float]) -> History:
    """Return a history with one number for each example, seen in the order given."""
    history = History()
    for key, value in values.items():
        who = Identities([key], [key], are_numbered=True)
        rows = torch.tensor(history.rows_of(who, [1]))
        history.read(rows, torch.zeros(1, 1))
        history.write(rows, torch.tensor([[value]]))
    return history


def test_of_several_processes_the_latest_prediction_counts():
    early, late = kept({1: 0.1, 2: 0.2}), kept({3: 0.3, 1: 0.4, 2: 0.5, 4: 0.6})
    merged = History()
    merged.load_state_dict(early.state_dict(), {}, late.state_dict())
    state = merged.state_dict()
    found = dict(zip(state["keys"].tolist(), state["values"].flatten().tolist(), strict=True))
    assert found == pytest.approx({1: 0.4, 2: 0.5, 3: 0.3, 4: 0.6})
    assert merged.passes == 4


@pytest.mark.parametrize("classes", [0, 3])
def test_a_stored_history_moves_to_where_the_model_is(classes):
    """A checkpoint is read on the CPU; ``meta`` stands for a GPU."""
    who = Identities([1, 2], [1, 2], are_numbered=False)
    stored = History()
    rows = torch.tensor(stored.rows_of(who, [1, 1]))
    stored.read(rows, torch.zeros(2, 4, dtype=torch.float64), classes)
    values = torch.arange(8.0, dtype=torch.float64).view(2, 4)
    stored.write(rows, values, torch.ones(2, classes).long() if classes else None)
    history = History()
    history.load_state_dict(stored.state_dict())
    there = torch.tensor(history.rows_of(who, [1, 1]))
    found, _ = history.read(there, torch.zeros(2, 4), classes)
    assert found.dtype == torch.float32
    assert found.equal(values.float())
    like = torch.empty(2, 4, device="meta")
    for tensor in history.read(there.to("meta"), like, classes):
        assert tensor is None or tensor.device == like.device
    history.write(
        there.to("meta"), like, torch.ones(2, classes, device="meta") if classes else None
    )


@pytest.mark.parametrize("rule", [None, 1, 3])
def test_predictions_of_a_version_that_recognised_otherwise_are_left_out(rule, caplog):
    own, other = kept({1: 0.1}).state_dict(), kept({2: 0.2}).state_dict()
    del other["rule"]
    if rule is not None:
        other["rule"] = torch.tensor([rule])
    history = History()
    with caplog.at_level(logging.WARNING, "hiddenkey"):
        history.load_state_dict(own, other)
    assert history.state_dict()["keys"].tolist() == [1]
    assert "are of another version of hiddenkey" in caplog.text
    caplog.clear()
    history.load_state_dict(own, {})
    assert not caplog.text


@pytest.mark.parametrize(
    ("change_state", "fault"),
    [
        (lambda state: state.pop("ages"), "ages missing"),
        (lambda state: state.update(counts=state["counts"][:1]), "numbers of examples differ"),
        (lambda state: state.update(values=state["values"][:1]), "numbers of rows differ"),
    ],
)
def test_a_damaged_state_is_refused(change_state, fault):
    state = kept({1: 0.1, 2: 0.2}).state_dict()
    change_state(state)
    with pytest.raises(ConsistencyError, match=fault):
        History().load_state_dict(state)


# ---------------------------------------------------------------- what means nothing


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"kind": "js"}, "kind='js' means nothing with target='history'"),
        ({"backward": "both"}, "backward='both' means nothing"),
        ({"precision": "bfloat16"}, "precision='bfloat16' means nothing"),
        ({"on": "representation"}, "on='representation' means nothing"),
        ({"momentum": 1.0}, "momentum must be in"),
        ({"top": 0}, "top must be a whole number"),
    ],
)
def test_settings_that_contradict_the_history_are_refused(settings, fault):
    with pytest.raises(ConfigError, match=fault):
        DropoutConfig(consistency=Consistency(**{"target": "history", **settings}))


@pytest.mark.parametrize("settings", [{"momentum": 0.9}, {"top": 4}])
def test_a_second_pass_has_no_history(settings):
    with pytest.raises(ConfigError, match="is for target='history'"):
        DropoutConfig(consistency=Consistency(**settings))


@pytest.mark.parametrize(
    ("family", "task"), [("bert", "classification"), ("bert", "regression"), ("llama", "causal")]
)
def test_the_summary_says_what_the_store_takes(family, task):
    model = lora_model(family, task)
    attachment = hiddenkey.attach(model, config())
    inputs = batch(task, "right")
    step(model, inputs)
    units = (inputs["labels"][:, 1:] != -100).sum().item() if task == "causal" else 4
    unit = "labelled token" if task == "causal" else "example"
    each = attachment.history.bytes // units
    assert f"to each example's last prediction ({each} bytes per {unit})" in str(attachment)


def test_the_table_says_what_is_compared():
    assert hiddenkey.methods()["temporal"].compensation == "temporal kl loss"
    assert hiddenkey.methods()["temporal"].config.drops == ()
    noise = hiddenkey.methods()["hiddenkey-temporal"].config.drops
    assert noise == (
        Drop("attention_logits", "column", 0.1),
        Drop("hidden", "element", 0.1),
    )


@pytest.mark.parametrize("numbered", [False, True])
def test_each_adapter_has_predictions_of_its_own(numbered):
    """Two adapters that take turns are two models; so is the one that both are added to."""
    model = lora_model("bert")
    with seeded(3):
        model.add_adapter("other", LoraConfig(target_modules=["value"], init_lora_weights=False))
    model.train()
    inputs = batch() | ({"example_index": torch.arange(4)} if numbered else {})
    logits, divergences = {}, []
    with hiddenkey.attach(model, "temporal") as attachment:
        for name in ("default", "other", "none", "default", "other", "none"):
            if name != "none":
                model.set_adapter(name)
            with model.disable_adapter() if name == "none" else nullcontext():
                now = model(**inputs).logits
            divergences.append(attachment.losses["consistency"])
            if name in logits:
                expected = kl_by_hand(now, logits[name]).mean().item()
                assert divergences[-1] == pytest.approx(expected, rel=1e-4, abs=1e-9)
            logits[name] = now.detach()
            change(model)
    assert divergences[:3] == [0.0] * 3
    assert all(each > 1e-5 for each in divergences[3:5])  # the frozen model is the same again


def test_an_example_that_is_twice_in_a_batch_is_recognised_twice():
    inputs = {name: torch.cat([each, each]) for name, each in batch("classification").items()}
    model, attachment = without_noise()
    for _ in range(2):
        step(model, inputs)
    assert (attachment.history.visits, attachment.history.recognised) == (16, 8)


def test_of_an_example_that_is_twice_in_a_batch_the_last_prediction_is_kept():
    """Whole: on a GPU two that write to one row at once would mix."""
    history = History()
    who = Identities([7, 8, 7], [7, 8, 7], are_numbered=False)
    rows = torch.tensor(history.rows_of(who, [1, 1, 1]))
    history.read(rows, torch.zeros(3, 2), classes=1)
    written = []
    setter = torch.Tensor.__setitem__
    values = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    with pytest.MonkeyPatch.context() as patch:
        keep = lambda own, key, value: written.append(value) or setter(own, key, value)  # noqa: E731
        patch.setattr(torch.Tensor, "__setitem__", keep)
        history.write(rows, values, torch.tensor([[5], [6], [9]]))
    assert written[0].tolist() == [[4.0, 5.0], [2.0, 3.0], [4.0, 5.0]]
    assert written[-1].tolist() == [[9], [6], [9]]
    assert history.state_dict()["values"].tolist() == [[4.0, 5.0], [2.0, 3.0]]
