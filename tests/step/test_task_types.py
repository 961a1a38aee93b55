"""The consistency loss of each task type, by hand in float64 from two passes with known masks."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BartConfig,
    LxmertConfig,
    LxmertForQuestionAnswering,
    ViTConfig,
    ViTForImageClassification,
    XLMConfig,
    XLMForQuestionAnswering,
)

import hiddenkey
from hiddenkey import Consistency, ConsistencyError, DropoutConfig
from hiddenkey.integrations.trainer import watch
from integrations.trainers import tiny_trainer
from models import PAD, VOCABULARY, assert_same_gradients, gradients, seeded
from task_models import BATCH, HEADS, LABELS, TOKENS, batch_for, model_for

NOISE = hiddenkey.method("hiddenkey-minus", rate=0.4)
FAMILIES = ("bert", "roberta", "deberta", "llama")
CASES = [(f, t) for f in FAMILIES for t in HEADS if (f, t) != ("llama", "choices")]


def config(kind: str = "kl", **settings: Any) -> DropoutConfig:
    return dataclasses.replace(NOISE, consistency=Consistency(kind, **settings))


# ---------------------------------------------------------------- the definitions


def divergence(kind: str, p: Tensor, q: Tensor) -> Tensor:
    """Of two distributions; q is that of the second pass."""

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (a * (a.log() - b.log())).sum()

    if kind == "kl":
        return (kl(p, q) + kl(q, p)) / 2
    return kl(p, q) if kind == "js" else (kl((p + q) / 2, p) + kl((p + q) / 2, q)) / 2


def softmax(logits: Tensor) -> Tensor:
    return logits.double().softmax(-1)


def yes_and_no(logit: Tensor) -> Tensor:
    yes = logit.double().sigmoid()
    return torch.stack([yes, 1 - yes])


def distributions(task: str, output: Any, inputs: dict[str, Tensor]) -> list[list]:
    """Return (sequence, distribution) for all that a loss is the mean of; two lists for answers."""
    rows = range(len(inputs["input_ids"]))
    if task == "labels":
        return [[(r, yes_and_no(output.logits[r, n])) for r in rows for n in range(LABELS)]]
    if task == "choices":
        return [[(r, softmax(output.logits[r])) for r in rows]]
    if task == "tokens":
        places = (inputs["labels"] != -100).nonzero().tolist()
        return [[(r, softmax(output.logits[r, t])) for r, t in places]]
    seen = inputs["attention_mask"].bool()
    return [
        [(r, softmax(logits[r][seen[r]])) for r in rows if positions.flatten()[r] < TOKENS]
        for logits, positions in (
            (output.start_logits, inputs["start_positions"]),
            (output.end_logits, inputs["end_positions"]),
        )
    ]


def by_hand(task: str, kind: str, one: Any, two: Any, inputs: dict, rows: Any = None) -> Tensor:
    """Return the mean divergence of two outputs, ``two`` of the second pass.

    Args:
        rows: the sequences that stand for all of them.
    """
    means = []
    pairs = (distributions(task, output, inputs) for output in (one, two))
    for ones, twos in zip(*pairs, strict=True):
        values = [
            divergence(kind, p, q)
            for (r, p), (_, q) in zip(ones, twos, strict=True)
            if rows is None or r in rows
        ]
        share = 1 if rows is None else len(rows) / BATCH
        means.append(torch.stack(values).sum() / len(ones) / share)
    return torch.stack(means).mean()


def two_passes(model: Any, inputs: dict[str, Tensor], kind: str, *, both: bool = False) -> tuple:
    """Run both passes without the consistency loss: the second one first, as it draws first."""
    with seeded(3):
        with torch.set_grad_enabled(both):
            two = model.train(kind == "kl")(**inputs)
        return two, model.train()(**inputs)


def consistency_of(model: Any, settings: DropoutConfig, inputs: dict[str, Tensor]) -> float:
    attachment = hiddenkey.attach(model, settings)
    with seeded(3):
        model(**inputs)
    return attachment.losses["consistency"]


@pytest.mark.parametrize(
    ("family", "task", "kind", "backward"),
    [
        *((*case, kind, "one") for case in CASES for kind in ("kl", "js", "mixture")),
        *((*case, kind, "both") for case in CASES for kind in ("kl", "mixture")),
    ],
)
def test_the_loss_and_its_gradient_are_those_of_the_definition(family, task, kind, backward):
    inputs, model = batch_for(task), model_for(family, task)
    hiddenkey.attach(model, NOISE)
    two, one = two_passes(model, inputs, kind, both=backward == "both")
    expected = by_hand(task, kind, one, two, inputs)
    assert expected > 1e-4
    task_loss = one.loss
    if backward == "both":
        task_loss = two.loss if kind == "mixture" else (one.loss + two.loss) / 2
    (task_loss + 2.5 * expected).backward()
    found = gradients(model)

    model = model_for(family, task)
    attachment = hiddenkey.attach(model, config(kind, weight=2.5, backward=backward))
    with seeded(3):
        loss = model(**inputs).loss
    loss.backward()
    assert attachment.losses == {
        "task": pytest.approx(task_loss.item(), rel=1e-5),
        "consistency": pytest.approx(2.5 * expected.item(), rel=1e-4),
    }
    assert loss.item() == pytest.approx(sum(attachment.losses.values()), rel=1e-5)
    assert_same_gradients(gradients(model), found, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("layers", [None, (1,)], ids=["all layers", "the last layer"])
@pytest.mark.parametrize("task", HEADS)
def test_a_fraction_stands_for_the_whole_batch(task, layers):
    inputs, model = batch_for(task), model_for("bert", task)
    noise = dataclasses.replace(NOISE, layers=layers)
    hiddenkey.attach(model, noise)
    with seeded(3):
        rows = torch.randperm(BATCH)[:2]
        with torch.no_grad():
            part = model(**{name: value[rows] for name, value in inputs.items()})
        one = model(**inputs)
    two = {}
    for name, value in part.items():
        if name != "loss":
            two[name] = torch.zeros_like(one[name])
            two[name][rows] = value
    expected = by_hand(task, "kl", one, type(one)(**two), inputs, rows.tolist())
    settings = dataclasses.replace(noise, consistency=Consistency(fraction=0.5))
    assert consistency_of(model, settings, inputs) == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("task", HEADS)
def test_a_pass_that_is_not_due_has_the_models_own_loss(task):
    inputs, model = batch_for(task), model_for("bert", task)
    attachment = hiddenkey.attach(model, config(every=2))
    model(**inputs)
    assert attachment.losses.keys() == {"task", "consistency"}
    with seeded(5):
        loss = model(**inputs).loss
    hiddenkey.attach(model, NOISE)
    with seeded(5):
        assert model(**inputs).loss == loss


@pytest.mark.parametrize(("family", "task"), CASES)
def test_evaluation_is_untouched(family, task):
    inputs, model = batch_for(task), model_for(family, task)
    before = model.eval()(**inputs)
    hiddenkey.attach(model, config())
    after = model(**inputs)
    assert before.keys() == after.keys()
    tensors = [name for name, value in before.items() if isinstance(value, Tensor)]
    assert len(tensors) >= 2
    assert all(torch.equal(before[name], after[name]) for name in tensors)


# ---------------------------------------------------------------- questions


def test_positions_may_have_an_axis_of_their_own_and_a_mask_may_be_missing():
    inputs, model = batch_for("answers"), model_for("bert", "answers")
    expected = consistency_of(model, config(), inputs)
    ends = {f"{end}_positions": inputs[f"{end}_positions"][:, None] for end in ("start", "end")}
    assert consistency_of(model, config(), {**inputs, **ends}) == pytest.approx(expected)
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    expected = consistency_of(model, config(), inputs)
    del inputs["attention_mask"]
    assert consistency_of(model, config(), inputs) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["kl", "js", "mixture"])
def test_half_precision_and_padding_leave_finite_gradients(kind):
    inputs, model = batch_for("answers"), model_for("bert", "answers").to(torch.bfloat16)
    inputs["attention_mask"][0, 1:] = 0
    attachment = hiddenkey.attach(model, config(kind))
    model(**inputs).loss.backward()
    assert attachment.losses["consistency"] > 0
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


def test_an_encoder_decoder_compares_all_positions_of_its_decoder():
    sizes = {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "max_position_embeddings": 48,
        "init_std": 0.2,
    }
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    rest = dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    rest |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 64)
    with seeded(0):
        built = BartConfig(**sizes, **heads, **rest, pad_token_id=PAD)
        model = HEADS["answers"].from_config(built).train()
    inputs = batch_for("answers")
    hiddenkey.attach(model, NOISE)
    two, one = two_passes(model, inputs, "kl")
    everywhere = {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}
    expected = by_hand("answers", "kl", one, two, everywhere)
    assert consistency_of(model, config(), inputs) == pytest.approx(expected.item(), rel=1e-4)


# ---------------------------------------------------------------- what a mean is over


@pytest.mark.parametrize(("family", "divides"), [("llama", True), ("bert", False)])
def test_answers_are_divided_by_the_items_where_the_task_loss_is(family, divides):
    inputs, model = batch_for("answers"), model_for(family, "answers")
    for end in ("start", "end"):
        inputs[f"{end}_positions"] %= 4
    attachment = hiddenkey.attach(model, config())
    parts = []
    for more in ({}, {"num_items_in_batch": 12}):
        with seeded(3):
            model(**inputs, **more)
        parts.append(attachment.losses)
    factor = BATCH / 12 if divides else 1
    assert parts[1] == pytest.approx({name: x * factor for name, x in parts[0].items()}, rel=1e-5)


@pytest.mark.parametrize(
    ("problem", "divides"),
    [("single_label_classification", True), ("multi_label_classification", False)],
)
def test_an_image_classifier_is_divided_by_the_items_where_its_loss_is(problem, divides):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "image_size": 8, "patch_size": 4, "num_labels": LABELS}
    with seeded(0):
        built = ViTConfig(**sizes, initializer_range=0.2, problem_type=problem)
        model = ViTForImageClassification(built).train()
        images = torch.randn(BATCH, 3, 8, 8)
    labels = batch_for("labels")["labels"] if not divides else torch.arange(BATCH)
    attachment = hiddenkey.attach(model, config())
    parts = []
    for more in ({}, {"num_items_in_batch": 12}):
        with seeded(3):
            model(pixel_values=images, labels=labels, **more)
        parts.append(attachment.losses)
    factor = BATCH / 12 if divides else 1
    assert parts[1] == pytest.approx({name: x * factor for name, x in parts[0].items()}, rel=1e-5)


def test_labels_of_a_type_that_transformers_takes_for_several_are_compared_one_by_one():
    """The first pass decides already, before the model has written its problem type down."""
    inputs = batch_for("labels")
    expected = consistency_of(model_for("bert", "labels"), config(), inputs)
    model = model_for("bert", "labels", problem_type=None)
    assert consistency_of(model, config(), inputs) == pytest.approx(expected)
    assert model.config.problem_type == "multi_label_classification"
    assert consistency_of(model, config(), inputs) == pytest.approx(expected)


# ---------------------------------------------------------------- a loss of one's own


def own_loss_of(task: str, output: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The losses of transformers, by PyTorch's own functions."""
    if task == "labels":
        return nn.functional.binary_cross_entropy_with_logits(output.logits, inputs["labels"])
    if task != "answers":
        labels = inputs["labels"].flatten()
        return nn.functional.cross_entropy(output.logits.flatten(0, -2), labels)
    ends = ((output.start_logits, "start"), (output.end_logits, "end"))
    return sum(
        nn.functional.cross_entropy(
            logits, inputs[f"{end}_positions"].clamp(max=TOKENS), ignore_index=TOKENS
        )
        for logits, end in ends
    ).div(2)


@pytest.mark.parametrize(("family", "task"), CASES)
def test_the_models_own_loss_computed_outside_trains_as_inside(family, task):
    inputs, found, losses = batch_for(task), [], []
    names = ("start_positions", "end_positions") if task == "answers" else ("labels",)
    labels = torch.stack([inputs[n] for n in names], 1) if len(names) > 1 else inputs["labels"]
    texts = {name: value for name, value in inputs.items() if name not in names}
    for outside in (False, True):
        model = model_for(family, task)
        attachment = hiddenkey.attach(model, config())
        with seeded(3):
            if outside:
                with attachment.own_loss(labels) as own:
                    loss = own.total(own_loss_of(task, model(**texts), inputs))
            else:
                loss = model(**inputs).loss
        loss.backward()
        found.append(gradients(model))
        losses.append(attachment.losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert_same_gradients(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("task", "units"), [("labels", BATCH * LABELS), ("choices", BATCH)])
def test_the_items_of_a_loss_from_outside_are_what_its_mean_is_over(task, units):
    inputs, model = batch_for(task), model_for("bert", task)
    attachment = hiddenkey.attach(model, config())
    labels = inputs.pop("labels")
    parts = []
    for items in (None, 7):
        with seeded(3), attachment.own_loss(labels, items=items) as own:
            own.total(model(**inputs).logits.sum())
        parts.append(attachment.losses["consistency"])
    assert parts[1] == pytest.approx(parts[0] * units / 7, rel=1e-5)


def test_without_positions_every_answer_of_a_loss_from_outside_is_compared():
    inputs, model = batch_for("answers"), model_for("bert", "answers")
    inside = {
        **inputs,
        **{f"{end}_positions": torch.zeros(BATCH).long() for end in ("start", "end")},
    }
    expected = consistency_of(model, config(), inside)
    texts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    attachment = hiddenkey.attach(model, config())
    with seeded(3), attachment.own_loss() as own:
        own.total(model(**texts).start_logits.sum())
    assert attachment.losses["consistency"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ConsistencyError, match=r"positions of shape \[batch, 2\], got \[4\]; use"):
        attachment.own_loss(inputs["start_positions"])


def test_a_loss_computed_from_the_start_beside_the_models_is_refused():
    inputs, model = batch_for("answers"), model_for("bert", "answers")
    hiddenkey.attach(model, config())
    model(**inputs).start_logits.square().mean().backward()
    with pytest.raises(ConsistencyError, match="was not trained on; hold each pass by"):
        model(**inputs)


@pytest.mark.parametrize("task", HEADS)
def test_trainer_logs_the_parts_of_the_loss_also_when_it_accumulates(task, tmp_path):
    inputs = batch_for(task, 24)
    if task == "answers":
        inputs |= dict.fromkeys(("start_positions", "end_positions"), torch.arange(24) % 4)
    rows = [{name: value[row] for name, value in inputs.items()} for row in range(24)]
    model = model_for("bert", task)
    attachment = hiddenkey.attach(model, config())
    more = {"gradient_accumulation_steps": 2}
    trainer = tiny_trainer(model, tmp_path, train_dataset=rows, **more)
    watch(trainer, attachment)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 3
    for log in logs:
        assert log["loss"] == pytest.approx(log["task_loss"] + log["consistency_loss"], rel=1e-5)


# ---------------------------------------------------------------- refusals


def test_a_pass_without_positions_names_them():
    inputs, model = batch_for("answers"), model_for("bert", "answers")
    hiddenkey.attach(model, config())
    del inputs["end_positions"]
    with pytest.raises(ConsistencyError, match="got no start_positions and end_positions; pass"):
        model(**inputs)


def test_the_tokens_of_several_texts_are_not_compared():
    model = model_for("bert", "choices")
    with pytest.raises(hiddenkey.ConfigError, match="whose sequences have several; use 'logits'"):
        hiddenkey.attach(model, config(on="representation"))


def test_answers_without_a_start_are_refused():
    """One that is chosen from a list, before training; one of a search over starts, in it."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    built = LxmertConfig(vocab_size=VOCABULARY, **sizes, l_layers=1, x_layers=1, r_layers=1)
    with pytest.raises(hiddenkey.ConfigError, match="which does not take start_positions; set"):
        hiddenkey.attach(LxmertForQuestionAnswering(built), config())
    built = XLMConfig(vocab_size=VOCABULARY, emb_dim=32, n_layers=1, n_heads=4, pad_index=PAD)
    model = XLMForQuestionAnswering(built).train()
    hiddenkey.attach(model, config())
    with pytest.raises(ConsistencyError, match=r"XLMForQuestionAnswering returned .* without it"):
        model(**batch_for("answers"))
