"""Models whose own ``forward`` leaves the loss to a base class or to a child.

With label smoothing the whole loss is known: PyTorch's cross-entropy of the labels' rows, over
what the task loss is divided by.
"""

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BlipConfig,
    BlipForConditionalGeneration,
    Kosmos2Config,
    Kosmos2ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

import hiddenkey
from hiddenkey import ConsistencyError, anatomy
from models import seeded

TOKENS, ITEMS = 10, 12
TEXT = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}


class OwnLlamaForCausalLM(LlamaForCausalLM):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


class TerseLlamaForCausalLM(LlamaForCausalLM):
    def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


class OwnViTForImageClassification(ViTForImageClassification):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


def llama(kind):
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return kind(LlamaConfig(**TEXT, **size, num_attention_heads=4))


def blip():
    own = {**TEXT, "hidden_size": 32, "encoder_hidden_size": 32, "intermediate_size": 64}
    own |= {"num_hidden_layers": 2, "num_attention_heads": 4, "sep_token_id": 2}
    config = BlipConfig(
        text_config={**own, "label_smoothing": 0.0}, vision_config=VISION, projection_dim=16
    )
    return BlipForConditionalGeneration(config)


def kosmos():
    own = {**TEXT, "embed_dim": 32, "ffn_dim": 64, "layers": 2, "attention_heads": 4}
    own |= {"eos_token_id": 2, "dropout": 0.0, "max_position_embeddings": 64}
    config = Kosmos2Config(text_config=own, vision_config=VISION, latent_query_num=4)
    return Kosmos2ForConditionalGeneration(config)


def inputs(name):
    with seeded(1):
        ids = torch.randint(3, 50, (2, TOKENS))
        images = torch.randn(2, 3, 16, 16)
    labels = ids.masked_fill(torch.arange(TOKENS) < 5, -100)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    if name in ("blip", "kosmos"):
        given["pixel_values"] = images
    if name == "kosmos":
        place = torch.zeros_like(ids)
        place[:, 1:5] = 1
        given["image_embeds_position_mask"] = place
    return given


MODELS = {
    "plain": (lambda: llama(LlamaForCausalLM), True),
    "subclass": (lambda: llama(OwnLlamaForCausalLM), True),
    "subclass without keywords": (lambda: llama(TerseLlamaForCausalLM), False),
    "blip": (blip, False),
    "kosmos": (kosmos, True),
}


@pytest.mark.filterwarnings("ignore")  # of BLIP's and Kosmos-2's own
@pytest.mark.parametrize("name", MODELS)
def test_the_added_loss_has_the_rows_and_the_divisor_of_the_task_loss(name):
    build, divides = MODELS[name]
    with seeded(0):
        model = build().train()
    given = inputs(name)
    assert anatomy.task_of(model) == "ForCausalLM"
    hiddenkey.attach(model, "label-smoothing")
    found = model(**given)
    rows = found.logits[:, :-1].flatten(0, 1)
    expected = F.cross_entropy(rows, given["labels"][:, 1:].flatten(), label_smoothing=0.1)
    torch.testing.assert_close(found.loss, expected, rtol=1e-5, atol=0)
    divided = model(**given, num_items_in_batch=torch.tensor(ITEMS)).loss
    labelled = int((given["labels"][:, 1:] != -100).sum())
    factor = labelled / ITEMS if divides else 1
    torch.testing.assert_close(divided, factor * expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", [ViTForImageClassification, OwnViTForImageClassification])
def test_a_classifier_that_leaves_its_loss_to_its_base_is_divided_alike(kind):
    with seeded(0):
        model = kind(ViTConfig(**VISION, num_labels=3)).train()
        images = torch.randn(2, 3, 16, 16)
    given = {"pixel_values": images, "labels": torch.tensor([0, 2])}
    hiddenkey.attach(model, "label-smoothing")
    found = model(**given)
    expected = F.cross_entropy(found.logits, given["labels"], label_smoothing=0.1)
    torch.testing.assert_close(found.loss, expected, rtol=1e-5, atol=0)
    divided = model(**given, num_items_in_batch=torch.tensor(ITEMS)).loss
    torch.testing.assert_close(divided, 2 / ITEMS * expected, rtol=1e-5, atol=0)


def test_a_classifier_that_takes_no_notice_of_the_items_stays_so():
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    with seeded(0):
        model = BertForSequenceClassification(
            BertConfig(vocab_size=50, **size, num_attention_heads=4)
        )
    hiddenkey.attach(model.train(), "label-smoothing")
    given = {**inputs("plain"), "labels": torch.tensor([0, 1])}
    whole = model(**given).loss
    assert torch.equal(model(**given, num_items_in_batch=torch.tensor(ITEMS)).loss, whole)


class FusedLlamaForCausalLM(LlamaForCausalLM):
    """Computes its loss without logits, as fused losses do."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output["logits"] = None
        return output


@pytest.mark.parametrize("method", ["hiddenkey", "temporal", "label-smoothing"])
def test_a_model_that_keeps_no_logits_is_refused_with_the_reason(method):
    model = llama(FusedLlamaForCausalLM).train()
    hiddenkey.attach(model, method, lm_loss="full")
    with pytest.raises(ConsistencyError, match=r"compares output\.logits, but Fused.* without it"):
        model(**inputs("plain"))
