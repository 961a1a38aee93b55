"""Padding is known wherever attention knows it, whatever the model's call looks like."""

from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModelForMultipleChoice,
    OPTConfig,
    OPTForCausalLM,
    XLNetConfig,
    XLNetModel,
)

import hiddenkey
from hiddenkey import Drop, DropoutConfig
from hiddenkey.sequence import site
from masks import watch_draws
from models import batch, configuration, plain_model, seeded

# PEFT 0.21 asks transformers 5.23 for an attribute by its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
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
    return watch_draws(monkeypatch)


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


def opt(**settings):
    """OPT gives its feed-forward block the tokens of all texts, one after the other."""
    with seeded(0):
        return OPTForCausalLM(
            OPTConfig(
                vocab_size=60,
                hidden_size=32,
                word_embed_proj_dim=32,
                ffn_dim=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                pad_token_id=0,
                **settings,
            )
        ).train()


def fallen_units(model, pattern, inputs):
    """Which units fell in each layer, ``[batch, tokens, features]``, and the observed rates."""
    fallen = []
    with hiddenkey.attach(model, DropoutConfig((Drop("hidden", pattern, 0.4),))) as attachment:
        for place in attachment.sites:
            module = model.get_submodule(place.name)
            module.register_forward_hook(lambda module, args, y: fallen.append(y.eq(0)))
        with seeded(5):
            model(**inputs)
        return [each.view(4, 9, 32) for each in fallen], list(attachment.shares().values())


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("pattern", ["element", "column", "span", "feature"])
def test_tokens_in_one_row_are_those_of_their_texts(pattern, padding):
    """The units that fall are those of a model whose blocks see the texts apart."""
    inputs = text(padding)
    fallen, shares = fallen_units(opt(), pattern, inputs)
    expected, _ = fallen_units(plain_model("gpt2"), pattern, inputs)
    assert all(map(torch.equal, fallen, expected))
    visible = inputs["attention_mask"].bool()
    assert shares == pytest.approx([each[visible].float().mean().item() for each in fallen])
    assert min(shares) > 0


def test_tokens_in_one_row_without_a_mask(seen):
    inputs = text("none")
    del inputs["attention_mask"]
    model = opt()
    with hiddenkey.attach(model, DropoutConfig((Drop("hidden", "span", 0.4),))) as attachment:
        model(**inputs)
        shares = attachment.shares()
    assert list(shares.values()) == pytest.approx([4 / 9, 4 / 9])  # a run of round(0.4 · 9) tokens


class TokensFirst(nn.Module):
    """PyTorch's own encoder in its default order of axes."""

    def __init__(self, *, batch_first):
        super().__init__()
        with seeded(0):
            layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=batch_first)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.embed = nn.Embedding(60, 32)
        self.batch_first = batch_first

    def forward(self, input_ids, attention_mask):
        states = self.embed(input_ids)
        states = states if self.batch_first else states.transpose(0, 1)
        states = self.encoder(states, src_key_padding_mask=attention_mask == 0)
        return states if self.batch_first else states.transpose(0, 1)


@pytest.mark.parametrize("size", [4, 9])
@pytest.mark.parametrize("pattern", ["element", "column", "span", "feature"])
@pytest.mark.parametrize("position", ["hidden", "input"])
def test_tokens_before_sequences(position, pattern, size):
    """The same units fall in either order, also where there are as many tokens as sequences."""
    inputs = batch(size=size)
    del inputs["labels"]
    found = []
    for batch_first in (True, False):
        model = TokensFirst(batch_first=batch_first).train()
        drops = DropoutConfig((Drop(position, pattern, 0.4),))
        with hiddenkey.attach(model, drops) as attachment, seeded(3):
            found.append((model(**inputs), attachment.shares()))
    torch.testing.assert_close(found[1][0], found[0][0])
    assert found[1][1] == found[0][1]


@pytest.mark.parametrize("pattern", ["span", "feature", "element"])
def test_xlnet_puts_tokens_first(pattern):
    """Its padding is neither dropped nor counted, and a sequence has its own mask."""
    with seeded(0):
        sizes = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "vocab_size": 60}
        model = XLNetModel(XLNetConfig(**sizes, dropout=0.0)).train()
    inputs, fallen = text("right"), []
    with hiddenkey.attach(model, DropoutConfig((Drop("hidden", pattern, 0.4),))) as attachment:
        for place in attachment.sites:
            module = model.get_submodule(place.name)
            module.register_forward_hook(lambda module, args, y: fallen.append(y.eq(0)))
        model(**inputs)
        shares = list(attachment.shares().values())
    visible = inputs["attention_mask"].bool()
    by_sequence = [each.transpose(0, 1) for each in fallen]
    expected = [each[visible].float().mean().item() for each in by_sequence]
    assert shares == pytest.approx(expected)
    if pattern == "feature":
        assert all(each.eq(each[:, :1]).all() for each in by_sequence)
        assert not any(each.eq(each[:1]).all() for each in by_sequence)
    else:
        assert not any(each[~visible].any() for each in by_sequence)


def test_an_adapter_sees_tokens_in_one_row_by_their_texts(monkeypatch):
    shapes = []
    draw = site.draw_sequence

    def spy(*args):
        shapes.append(tuple(draw(*args).shape))
        return draw(*args)

    monkeypatch.setattr(site, "draw_sequence", spy)
    model = get_peft_model(opt(), LoraConfig(target_modules=["fc1", "fc2"], r=4)).train()
    with hiddenkey.attach(model, DropoutConfig((Drop("update", "rank", 0.4),))):
        model(**text("right"))
    assert shapes == [(4, 1, 4)] * 4


def test_detach_takes_the_inner_hooks_off():
    model = ByDictionary(plain_model("bert"))
    hiddenkey.attach(model, NOISE).detach()
    assert not any(module._forward_pre_hooks for module in model.modules())
