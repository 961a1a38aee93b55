"""What is remembered of a mask is what is in it, and nothing is claimed of other masks."""

import gc

import pytest
import torch
from transformers import BertConfig, LlamaConfig, MistralConfig
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    create_bidirectional_mask,
    create_causal_mask,
    create_sliding_window_causal_mask,
)

import hiddenkey
from hiddenkey.attention import masks, site
from hiddenkey.attention.masks import structure_of
from hiddenkey.attention.view import read_mask
from models import ATTENTIONS, CACHE, FAMILIES, batch, lora_model, run

BATCH, LENGTH = 3, 7
PADDED = {
    "right": torch.arange(LENGTH) < torch.tensor([[7], [4], [1]]),
    "left": torch.arange(LENGTH) >= torch.tensor([[0], [4], [6]]),
}


@pytest.fixture(autouse=True)
def remembered():
    masks.remember_masks(ATTENTIONS)
    yield
    masks.forget_masks()


@pytest.fixture(params=ATTENTIONS)
def config_of(request):
    """Configurations whose masks are built by the remembering builder."""
    name = request.param

    def make(kind, **settings):
        config = kind(**settings)
        config._attn_implementation = name
        return config

    return make


def build(create, config, keys, **more):
    states = torch.zeros(BATCH, LENGTH, 4)
    if create is not create_bidirectional_mask:
        more = {CACHE: None, "position_ids": None, **more}
    return create(config=config, inputs_embeds=states, attention_mask=keys, **more)


@pytest.mark.parametrize("side", PADDED)
@pytest.mark.parametrize(
    ("create", "kind"), [(create_bidirectional_mask, BertConfig), (create_causal_mask, LlamaConfig)]
)
def test_padding_and_order_are_remembered(config_of, create, kind, side):
    mask = build(create, config_of(kind), PADDED[side])
    found = structure_of(mask)
    assert found.causal == (create is create_causal_mask)
    assert found.keys.visible.equal(PADDED[side])
    known, read = read_mask(mask, causal=False), read_mask(mask.clone(), causal=False)
    assert structure_of(mask.clone()) is None
    size = (LENGTH, LENGTH, torch.device("cpu"))
    assert known.dense(*size).equal(read.dense(*size))
    assert known.bias is None
    assert known.visible_keys(BATCH, LENGTH, size[-1]).visible.equal(PADDED[side])


def test_no_padding_needs_no_keys():
    config = LlamaConfig()
    config._attn_implementation = "eager"  # builds a mask in any case
    found = structure_of(build(create_causal_mask, config, None))
    assert (found.keys, found.causal) == (None, True)


OTHERS = {
    "a sliding window": (
        create_sliding_window_causal_mask,
        MistralConfig,
        {"sliding_window": 3},
        {},
    ),
    "a wider view": (
        create_causal_mask,
        LlamaConfig,
        {},
        {"or_mask_function": lambda b, h, q, k: k < 2},
    ),
    "a narrower view": (
        create_bidirectional_mask,
        BertConfig,
        {},
        {"and_mask_function": lambda b, h, q, k: abs(q - k) < 2},
    ),
    "packed sequences": (
        create_causal_mask,
        LlamaConfig,
        {},
        {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3]] * BATCH)},
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_masks_are_not_claimed(config_of, other):
    create, kind, settings, more = OTHERS[other]
    keys = None if other == "packed sequences" else PADDED["right"]
    mask = build(create, config_of(kind, **settings), keys, **more)
    assert mask is not None
    assert structure_of(mask) is None


def test_a_mask_of_later_queries_is_not_claimed():
    build_mask = masks.remembering(ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    sizes = {"batch_size": 1, "q_length": 3, "kv_length": 7}
    mask = build_mask(**sizes, q_offset=4, allow_is_causal_skip=False)
    assert structure_of(mask) is None


def test_a_mask_that_was_written_into_is_not_claimed():
    config = LlamaConfig()
    config._attn_implementation = "sdpa"
    mask = build(create_causal_mask, config, PADDED["right"])
    assert structure_of(mask) is not None
    mask[:, :, 0, 1] = True
    assert structure_of(mask) is None


def test_a_mask_and_what_is_known_of_it_are_forgotten_together():
    config = LlamaConfig()
    config._attn_implementation = "sdpa"
    mask = build(create_causal_mask, config, PADDED["right"])
    before = len(masks._KNOWN)
    del mask
    gc.collect()
    assert len(masks._KNOWN) == before - 1


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padded_models_reach_the_kernels_without_a_map(monkeypatch, family, padding, attention):
    """Every layer's mask is known, so that DropKey is a mask over the keys in every family."""
    views = []

    def recorded(mask, *, causal):
        view = read_mask(mask, causal=causal)
        assert view.dense(9, 9, mask.device).equal(
            read_mask(mask.clone(), causal=causal).dense(9, 9, mask.device)
        )
        views.append(view)
        return view

    monkeypatch.setattr(site, "read_mask", recorded)
    model = lora_model(family, attention=attention)
    hiddenkey.attach(model, "dropkey")
    run(model, batch(padding=padding))
    assert len(views) == 2
    for view in views:
        assert view.allowed.shape == (4, 1, 1, 9)
        assert view.causal == (family in ("gpt2", "llama"))
