"""Padding is known wherever attention knows it, whatever the model's call looks like."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForMultipleChoice

import hiddenkey
from hiddenkey import Drop, DropoutConfig
from hiddenkey.sequence import site
from models import batch, configuration, plain_model, seeded

NOISE = DropoutConfig((Drop("hidden", "column", 0.3),))


class ByDictionary(nn.Module):
    """Takes its batch as one dictionary, as SentenceTransformer does."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, features):
        return self.model(**features).logits.sum()


class TwoTexts(nn.Module):
    """Encodes two texts by one model, and compares them."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, left, right):
        one, other = (self.model(**text).logits for text in (left, right))
        return (one * other).sum()


@pytest.fixture
def seen(monkeypatch):
    """What every drop takes for visible, in order."""
    masks = []
    draw = site.draw_sequence

    def spy(pattern, rate, states, visible):
        masks.append(visible)
        return draw(pattern, rate, states, visible)

    monkeypatch.setattr(site, "draw_sequence", spy)
    return masks


def text(padding, seed=0):
    inputs = batch(padding=padding, seed=seed)
    del inputs["labels"]
    return inputs


def assert_seen(seen, *masks):
    assert [mask.shape for mask in seen] == [mask.shape for mask in masks]
    assert all(map(torch.equal, seen, (mask.bool() for mask in masks)))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_a_batch_in_a_dictionary(family, padding, seen):
    model = ByDictionary(plain_model(family)).train()
    attachment = hiddenkey.attach(model, NOISE)
    inputs = text(padding)
    model(inputs).backward()
    assert_seen(seen, *[inputs["attention_mask"]] * 2)
    assert all(0 < share < 1 for share in attachment.shares().values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_two_texts_of_different_padding(seen, checkpointing):
    inner = plain_model("bert")
    if checkpointing:
        for layer in inner.bert.encoder.layer:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    model = TwoTexts(inner).train()
    hiddenkey.attach(model, NOISE)
    left, right = text("left"), text("right", seed=1)
    loss = model(left, right)
    masks = [left["attention_mask"]] * 2 + [right["attention_mask"]] * 2
    assert_seen(seen, *masks)
    loss.backward()
    assert_seen(seen[4:], *masks[::-1] if checkpointing else ())


def test_a_text_without_a_mask_has_no_padding_though_the_one_before_had(seen):
    model = TwoTexts(plain_model("bert")).train()
    hiddenkey.attach(model, NOISE)
    left, right = text("left"), text("none")
    del right["attention_mask"]
    model(left, right)
    everything = torch.ones((1, 1))
    assert_seen(seen, *[left["attention_mask"]] * 2, everything, everything)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_several_texts_to_choose_from(family, seen):
    with seeded(0):
        model = AutoModelForMultipleChoice.from_config(configuration(family)).train()
    hiddenkey.attach(model, NOISE)
    inputs = text("right")
    choices = {name: values.view(2, 2, -1) for name, values in inputs.items()}
    model(**choices, labels=torch.tensor([0, 1])).loss.backward()
    assert_seen(seen, *[inputs["attention_mask"]] * 2)


def test_detach_takes_the_inner_hooks_off():
    model = ByDictionary(plain_model("bert"))
    hiddenkey.attach(model, NOISE).detach()
    assert not any(module._forward_pre_hooks for module in model.modules())
