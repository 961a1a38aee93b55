"""Whose an earlier prediction is: examples that differ in what a model reads, and no others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

import hiddenkey
from hiddenkey import Consistency, ConsistencyError, DropoutConfig
from hiddenkey.attachment.attachment import attachment_of
from hiddenkey.step.identity import Reading, content_hash, identities
from hiddenkey.step.packed import packed_starts, per_example
from models import CACHE, PAD, VOCABULARY, batch, configuration, plain_model, seeded, step
from task_models import model_for

IMAGE = VOCABULARY - 1
TEMPORAL = DropoutConfig(consistency=Consistency(target="history"))


def passes(model: Any, *inputs: dict[str, Tensor], weights: float = 0.0) -> list[float]:
    """Train a step on each batch; return the parts of the losses that compare."""
    attachment = hiddenkey.attach(model, TEMPORAL)
    found = []
    for each in inputs:
        step(model, each)
        found.append(attachment.losses["consistency"])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += weights
    return found


def known(model: Any) -> tuple[int, int]:
    """Return how many examples were seen, and how often one was recognised."""
    history = attachment_of(model).history
    return len(history), history.recognised


def rows(inputs: dict[str, Tensor], *chosen: int) -> dict[str, Tensor]:
    return {name: value[list(chosen)] for name, value in inputs.items()}


# ---------------------------------------------------------------- images


def llava() -> Any:
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
    )
    config = LlavaConfig(
        text_config=configuration("llama").to_dict(),
        vision_config=vision.to_dict(),
        image_token_index=IMAGE,
        vision_feature_select_strategy="default",
    )
    with seeded(0):
        return LlavaForConditionalGeneration(config).train()


def one_question_of_two_images() -> dict[str, Tensor]:
    ids = torch.tensor([[1, *[IMAGE] * 4, 7, 8, 9, 10]] * 2)
    labels = ids.clone()
    labels[:, :-1] = -100
    pixels = 3 * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    return {"input_ids": ids, "pixel_values": pixels, "labels": labels, "attention_mask": mask}


def test_one_question_of_two_images_is_two_examples():
    inputs = one_question_of_two_images()
    first, second = rows(inputs, 0), rows(inputs, 1)
    model = llava()
    assert passes(model, first, second, weights=0.03) == [0, 0]
    assert known(model) == (2, 0)
    # without a change of weights each agrees with itself, whatever the batch
    model = llava()
    found = passes(model, first, second, rows(inputs, 1, 0))
    assert found == pytest.approx([0, 0, 0], abs=1e-6)
    assert known(model) == (2, 2)


def test_each_image_is_compared_with_its_own_earlier_prediction():
    inputs = one_question_of_two_images()
    first, second = rows(inputs, 0), rows(inputs, 1)
    alone = [passes(llava(), each, each, weights=0.01)[1] for each in (first, second)]
    assert alone[0] != pytest.approx(alone[1], rel=1e-2)
    together = passes(llava(), inputs, rows(inputs, 1, 0), weights=0.01)
    assert together[1] == pytest.approx(sum(alone) / 2, rel=1e-3)


def texts_with_images(*images: list[int]) -> Tensor:
    """Return a row of tokens for each list, in which each image has so many placeholders."""
    lines = [[1] + [t for n in each for t in [*[IMAGE] * n, 5]] for each in images]
    width = max(len(line) for line in lines)
    return torch.tensor([line + [PAD] * (width - len(line)) for line in lines])


READING = Reading(padding=PAD, placeholders={"image": IMAGE})
DRAWS = torch.Generator().manual_seed(0)


def test_patches_go_to_the_texts_by_their_placeholders():
    """As in Qwen2-VL: four patches to a token, and those of all images in one row."""
    ids = texts_with_images([2, 1], [], [2])
    patches = torch.randn(20, 8, generator=DRAWS)
    grid = torch.tensor([[1, 2, 4], [1, 2, 2], [1, 4, 2]])
    inputs = {"input_ids": ids, "pixel_values": patches, "image_grid_thw": grid}
    whole = content_hash(inputs, READING)
    order = torch.tensor([2, 0, 1])
    other = {
        "input_ids": ids[order],
        "pixel_values": torch.cat([patches[12:], patches[:12]]),
        "image_grid_thw": grid[[2, 0, 1]],
    }
    assert content_hash(other, READING).equal(whole[order])
    assert content_hash({"input_ids": ids[1:2]}, READING).equal(whole[1:2])
    last = {"input_ids": ids[2:], "pixel_values": patches[12:], "image_grid_thw": grid[2:]}
    assert content_hash(last, READING).equal(whole[2:])
    for name, value in (("pixel_values", patches.roll(1, 0)), ("image_grid_thw", grid[[0, 1, 0]])):
        is_same = content_hash({**inputs, name: value}, READING) == whole
        assert is_same.tolist() == [name == "image_grid_thw", True, False]


@pytest.mark.parametrize(
    ("ids", "counts"),
    [
        (texts_with_images([4, 4], []), (2, 0)),  # as many images as texts, and not one for each
        (texts_with_images([8], [4]), (2, 1)),  # two images without a token between them
        (texts_with_images([3, 5], [2], [6]), (2, 1, 1)),  # of different sizes
    ],
)
def test_images_go_to_the_texts_by_their_placeholders(ids, counts):
    images = torch.randn(sum(counts), 3, 4, 4, generator=DRAWS)
    whole = content_hash({"input_ids": ids, "pixel_values": images}, READING)
    for each, own in enumerate(images.split(counts)):
        given = {"input_ids": ids[each : each + 1], **({"pixel_values": own} if len(own) else {})}
        assert content_hash(given, READING).equal(whole[each : each + 1])
    assert len({*whole.tolist()}) == len(counts)


def test_an_empty_row_of_images_is_no_image():
    """As in Idefics: a row for each text, with room for the most images of one of them."""
    ids = texts_with_images([4, 4], [])
    images = torch.zeros(2, 2, 3, 4, 4)
    images[0] = torch.randn(2, 3, 4, 4, generator=DRAWS)
    whole = content_hash({"input_ids": ids, "pixel_values": images}, READING)
    assert content_hash({"input_ids": ids[1:]}, READING).equal(whole[1:])
    alone = {"input_ids": ids[:1], "pixel_values": images[:1]}
    assert content_hash(alone, READING).equal(whole[:1])
    wider = torch.nn.functional.pad(images[:1], (0, 3, 0, 2, 0, 0, 0, 1))
    assert content_hash({**alone, "pixel_values": wider}, READING).equal(whole[:1])


def test_images_that_are_nobodys_need_numbers():
    inputs = {**one_question_of_two_images(), "pixel_values": torch.ones(3, 3, 16, 16)}
    with pytest.raises(
        ConsistencyError, match=r"pixel_values of shape \[3, 3, 16, 16\] is not laid"
    ):
        content_hash(inputs, Reading())
    with pytest.raises(ConsistencyError, match="a number in a column example_index"):
        content_hash(inputs, READING)


def test_numbered_examples_are_not_asked_whose_an_image_is(monkeypatch):
    """Their content is checked by what is theirs in any batch."""
    monkeypatch.setattr("hiddenkey.step.media.placeholders", lambda config: {})
    ids = texts_with_images([4, 4], [4])
    mask = (ids != PAD).long()
    labels = torch.where(ids == 5, 7, -100)
    images = torch.randn(3, 3, 16, 16, generator=DRAWS)
    both = {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": images}
    second = {**rows({**both, "pixel_values": images[1:]}, 1)}
    with pytest.raises(ConsistencyError, match="their tokens do not say whose each row is"):
        passes(llava(), both)
    numbers = torch.tensor([4, 7])
    model = llava()
    found = passes(
        model,
        {**second, "example_index": numbers[1:]},
        {**both, "example_index": numbers},
        weights=0.01,
    )
    assert found[0] == 0 < found[1]
    assert known(model) == (2, 1)


# ---------------------------------------------------------------- references, labels


def t5() -> Any:
    sizes = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4}
    with seeded(0):
        config = T5Config(vocab_size=VOCABULARY, decoder_start_token_id=0, **sizes)
        return T5ForConditionalGeneration(config).train()


def translation(*target: int) -> dict[str, Tensor]:
    source = torch.tensor([[5, 6, 7, 8]])
    return {
        "input_ids": source,
        "attention_mask": torch.ones_like(source),
        "labels": torch.tensor([target]),
    }


def test_each_reference_of_one_source_is_an_example():
    references = [translation(*t) for t in ((11, 12, 13), (21, 22, 23), (21, 22, 23, 24))]
    model = t5()
    assert passes(model, *references, weights=0.01) == [0, 0, 0]
    assert known(model) == (3, 0)
    # padded to another length, on either side
    right, left = translation(11, 12, 13, -100, -100), translation(-100, 21, 22, 23)
    model = t5()
    found = passes(model, *references, right)
    assert known(model) == (3, 1)
    assert found == pytest.approx([0] * 4, abs=1e-6)
    reading = Reading(padding=0, by_token=True, writes=True)
    assert content_hash(left, reading).equal(content_hash(references[1], reading))


def test_what_the_decoder_reads_is_part_of_an_example():
    inputs = translation(11, 12, 13)
    reading = Reading(padding=0, by_token=True, writes=True)

    def hashed(*tokens: int) -> int:
        written = {**inputs, "decoder_input_ids": torch.tensor([tokens])}
        return int(content_hash(written, reading))

    assert hashed(0, 11, 12) != hashed(0, 11, 14)
    assert hashed(0, 11, 12) == hashed(0, 11, 12, 0, 0)


def tagged(*places: int, side: str = "right", padding: int = 0) -> dict[str, Tensor]:
    """Return one sentence, of which the tokens at these places have a label."""
    ids = torch.tensor([[3, 9, 4, 8, 5, 7]])
    labels = torch.full_like(ids, -100)
    labels[0, list(places)] = 1
    pads = (padding, 0) if side == "left" else (0, padding)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    fill = {"input_ids": PAD, "attention_mask": 0, "labels": -100}
    pad = torch.nn.functional.pad
    return {name: pad(value, pads, value=fill[name]) for name, value in inputs.items()}


def test_a_sentence_with_labels_at_other_places_is_another_example():
    """Each aspect of a sentence is tagged on its own."""
    model = model_for("bert", "tokens")
    sentences = [tagged(1, 2), tagged(3, 4), tagged(1, 2, 3)]
    assert passes(model, *sentences, weights=0.01) == [0, 0, 0]
    assert known(model) == (3, 0)
    model = model_for("bert", "tokens")
    found = passes(model, *sentences, tagged(3, 4, padding=2))
    assert found == pytest.approx([0] * 4, abs=1e-6)
    assert known(model) == (3, 1)


def test_the_places_of_labels_do_not_depend_on_the_side_of_the_padding():
    reading = Reading(padding=PAD, by_token=True)
    found = [
        int(content_hash(tagged(1, 2, side=side, padding=padding), reading))
        for side in ("left", "right")
        for padding in (0, 1, 3)
    ]
    assert len({*found}) == 1


def test_a_corrected_label_leaves_an_example_what_it_was():
    """The prediction is of the same inputs, so that it is no worse for another label."""
    inputs = batch("classification")
    corrected = {**inputs, "labels": (inputs["labels"] + 1) % 2}
    model = plain_model("bert")
    assert passes(model, inputs, corrected, weights=0.01)[1] > 0
    assert known(model) == (4, 4)
    other = tagged(1, 2)
    other["labels"][0, 1] = 0
    reading = Reading(by_token=True)
    assert content_hash(other, reading).equal(content_hash(tagged(1, 2), reading))


def test_numbered_examples_whose_labels_move_are_refused():
    model = model_for("bert", "tokens")
    number = {"example_index": torch.tensor([3])}
    with pytest.raises(ConsistencyError, match="or the data set changed between epochs"):
        passes(model, {**tagged(1, 2), **number}, {**tagged(3, 4), **number})


@pytest.mark.parametrize("labels", ["padding", "the first token"])
def test_labels_by_which_padding_makes_a_difference_are_refused(labels):
    side = "right" if labels == "padding" else "left"
    short, long = tagged(0, 1, 2), tagged(0, 1, 2, side=side, padding=2)
    if labels == "padding":
        long["labels"][:, -2:] = 1
    model = plain_model("llama", "causal")
    with pytest.raises(ConsistencyError, match="its batch is padded to another length"):
        passes(model, short, long)


# ---------------------------------------------------------------- further inputs


def test_further_inputs_are_part_of_an_example():
    inputs = tagged(1, 2)
    types = torch.tensor([[0, 0, 0, 1, 1, 1]])
    boxes = torch.arange(24).view(1, 6, 4)
    plain = content_hash(inputs, READING)
    for name, value in (
        ("token_type_ids", types),
        ("bbox", boxes),
        ("entity_start_positions", types[:, 3:5]),
    ):
        found = content_hash({**inputs, name: value}, READING)
        assert not found.equal(plain)
        other = content_hash({**inputs, name: value.flip(-1) + 1}, READING)
        assert not found.equal(other)
    wider = torch.nn.functional.pad(types, (2, 0))
    left = {**tagged(1, 2, side="left", padding=2), "token_type_ids": wider}
    expected = content_hash({**inputs, "token_type_ids": types}, READING)
    assert content_hash(left, READING).equal(expected)


def test_what_follows_from_the_padding_is_no_part_of_an_example():
    inputs = tagged(1, 2)
    more = {
        "position_ids": torch.arange(6)[None] + 2,
        "num_items_in_batch": torch.tensor([5]),
        "sample_weight": torch.rand(1),
    }
    assert content_hash({**inputs, **more}, READING).equal(content_hash(inputs, READING))


# ---------------------------------------------------------------- packed texts


def row_of_two(**more: Tensor) -> dict[str, Tensor]:
    ids = torch.tensor([[3, 9, 4, 8, 5]])
    places = torch.tensor([[0, 1, 2, 0, 1]])
    labels = ids.masked_fill(places == 0, -100)
    return {"input_ids": ids, "position_ids": places, "labels": labels, **more}


def test_a_packed_text_is_the_example_that_it_is_by_itself():
    reading = Reading(padding=PAD, by_token=True)
    types = torch.tensor([[1, 2, 3, 4, 5]])
    whole = identities(row_of_two(token_type_ids=types), None, reading)
    assert whole.starts.tolist() == [[True, False, False, True, False]]
    for key, own in zip(whole.keys, (slice(0, 3), slice(3, 5)), strict=True):
        row = row_of_two(token_type_ids=types)
        alone = {name: value[:, own] for name, value in row.items()}
        found = identities(alone, None, reading)
        assert found.starts is None
        assert found.keys == [key]


@pytest.mark.parametrize("texts", [1, 3])
def test_packed_texts_are_read_a_few_at_a_time(texts, monkeypatch):
    reading = Reading(padding=PAD, by_token=True)
    expected = identities(row_of_two(), None, reading).keys
    monkeypatch.setattr("hiddenkey.step.packed.AT_ONCE", 3 * texts)
    assert identities(row_of_two(), None, reading).keys == expected


@pytest.mark.parametrize(
    "more",
    [
        {"attention_mask": torch.ones(1, 5)},
        {"labels": torch.tensor([[3, 9, 4, 8, 5]])},  # the first text's end is to predict the next
        {"pixel_values": torch.ones(1, 3, 4, 4)},
        {"speaker": torch.ones(1, 7)},
        {"position_ids": torch.arange(5)[None] + 2},
    ],
    ids=lambda more: next(iter(more)),
)
def test_a_row_that_does_not_say_what_belongs_to_whom_is_one_example(more):
    assert packed_starts(row_of_two(**more)) is None


def test_units_are_counted_by_packed_text():
    starts = torch.tensor([[True, False, True, False], [True, False, False, False]])
    units = torch.tensor([[False, True, True, True], [True, False, True, False]])
    assert per_example(units, starts) == [1, 2, 2]
    assert per_example(units[:, 1:], starts) == [1, 2, 1]
    assert per_example(units, None) == [3, 2]


# ---------------------------------------------------------------- trained prompts


def prompted(kind: type = PromptTuningConfig, **settings: Any) -> Any:
    task = kind(task_type="CAUSAL_LM", num_virtual_tokens=3, **settings)
    with seeded(0):
        return get_peft_model(plain_model("llama", "causal"), task).train()


@pytest.mark.parametrize("kind", [PromptTuningConfig, PromptEncoderConfig])
def test_examples_that_hold_a_trained_prompt_need_numbers(kind):
    inputs = batch("causal", "right")
    model = prompted(kind)
    with pytest.raises(
        ConsistencyError, match="inputs_embeds is computed by weights that are train"
    ):
        passes(model, inputs)
    numbered = {**inputs, "example_index": torch.arange(4)}
    found = passes(model, numbered, numbered, weights=0.03)
    assert found[0] == 0 < found[1]
    assert known(model) == (4, 4)


def test_a_trained_prefix_leaves_examples_what_they_are():
    inputs = batch("causal", "right")
    model = prompted(PrefixTuningConfig)
    assert passes(model, inputs, inputs, weights=0.03)[1] > 0
    assert known(model) == (4, 4)


@pytest.mark.parametrize("is_trained", [False, True])
def test_features_are_recognised_if_no_trained_weights_compute_them(is_trained):
    inputs = batch("causal", "right")
    model = plain_model("llama", "causal")
    embedding = model.get_input_embeddings().requires_grad_(is_trained)

    def embedded() -> dict[str, Tensor]:
        given = {name: value for name, value in inputs.items() if name != "input_ids"}
        return {**given, "inputs_embeds": embedding(inputs["input_ids"])}

    if is_trained:
        with pytest.raises(ConsistencyError, match="inputs_embeds is computed by weights"):
            passes(model, embedded())
        return
    assert passes(model, embedded(), embedded())[1] == pytest.approx(0, abs=1e-6)
    assert known(model) == (4, 4)


def test_what_a_cache_holds_is_part_of_an_example():
    """One continuation of two texts that were read before."""
    model = plain_model("llama", "causal", dropout=0.0).eval()
    inputs = {"input_ids": batch("causal", "none")["input_ids"]}
    texts = torch.randint(3, VOCABULARY, (2, 4, 5), generator=torch.Generator().manual_seed(1))

    def after(text):
        with torch.no_grad():
            read = model(input_ids=text, use_cache=True)
        return identities({**inputs, "past_key_values": read[CACHE]}, None).keys

    assert after(texts[0]) == after(texts[0])
    assert not set(after(texts[0])) & set(after(texts[1]))
    assert not set(after(texts[0])) & set(identities(inputs, None).keys)
