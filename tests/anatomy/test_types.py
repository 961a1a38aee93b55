"""What is found in architectures that differ from each other in more than names."""

import re

import pytest
import torch
from torch import nn
from transformers.models.bert.modeling_bert import BertSelfAttention
from transformers.models.gptj import modeling_gptj

import hiddenkey
from hiddenkey import AttachError, anatomy
from model_tables.build import build


def parts(model_type, task):
    """Return the model, and for each position the names without indices and how many there are."""
    model = build(model_type, task).model
    layers = anatomy.find_layers(model)
    attention = anatomy.find_attention(layers)
    hidden = anatomy.find_feed_forward(model, layers, None)
    return (
        model,
        layers,
        [(short(part.name), part.kind, part.through_interface) for part in attention],
        [short(part.name) for part in hidden if isinstance(part, anatomy.Part)],
    )


def short(name):
    return re.sub(r"\.\d+(?=\.|$)", ".#", name)


# transformers 5.24 moved it into its registry
GPTJ_BY_INTERFACE = hasattr(modeling_gptj, "ALL_ATTENTION_FUNCTIONS")

# type, task, layers, attention modules, modules whose output is the feed-forward block's
FOUND = [
    ("t5", "seq2seq", 4,
     {("encoder.block.#.layer.#.SelfAttention", "self", True),
      ("decoder.block.#.layer.#.SelfAttention", "self", True),
      ("decoder.block.#.layer.#.EncDecAttention", "cross", True)},
     {"encoder.block.#.layer.#.DenseReluDense.wo", "decoder.block.#.layer.#.DenseReluDense.wo"}),
    ("bart", "seq2seq", 4,
     {("model.encoder.layers.#.self_attn", "self", True),
      ("model.decoder.layers.#.self_attn", "self", True),
      ("model.decoder.layers.#.encoder_attn", "cross", True)},
     {"model.encoder.layers.#.fc2", "model.decoder.layers.#.fc2"}),
    ("deberta-v2", "classification", 2,
     {("deberta.encoder.layer.#.attention.self", "self", False)},
     {"deberta.encoder.layer.#.output.dense"}),
    ("falcon", "causal", 2, {("transformer.h.#.self_attention", "self", False)},
     {"transformer.h.#.mlp.dense_4h_to_h"}),
    ("gptj", "causal", 2, {("transformer.h.#.attn", "self", GPTJ_BY_INTERFACE)},
     {"transformer.h.#.mlp.fc_out"}),
    ("mixtral", "causal", 2, {("model.layers.#.self_attn", "self", True)}, {"model.layers.#.mlp"}),
    ("mobilebert", "classification", 2,
     {("mobilebert.encoder.layer.#.attention.self", "self", True)},
     {"mobilebert.encoder.layer.#.output.dense", "mobilebert.encoder.layer.#.ffn.#.output.dense"}),
    ("swin", "image", 8, {("swin.encoder.layers.#.blocks.#.attention", "self", True)},
     {"swin.encoder.layers.#.blocks.#.mlp.fc2"}),
    ("xlm", "classification", 2, {("transformer.attentions.#", "self", False)},
     {"transformer.ffns.#.lin2"}),
    ("lilt", "classification", 2, {("lilt.encoder.layer.#.attention.self", "self", False)},
     {"lilt.encoder.layer.#.output.dense", "lilt.encoder.layer.#.layout_output.dense"}),
    ("gemma3n_text", "causal", None, {("model.layers.#.self_attn", "self", True)},
     {"model.layers.#.mlp.down_proj"}),
    ("xmod", "classification", 2, {("roberta.encoder.layer.#.attention.self", "self", True)},
     {"roberta.encoder.layer.#.output.dense"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "task", "count", "attention", "hidden"), FOUND, ids=[row[0] for row in FOUND]
)
def test_parts(model_type, task, count, attention, hidden):
    _, layers, found_attention, found_hidden = parts(model_type, task)
    assert count in (None, len(layers))
    assert set(found_attention) == attention
    assert set(found_hidden) == hidden


def test_a_hybrid_names_the_layers_without_attention_or_feed_forward_block():
    model = build("nemotron_h", "causal").model
    attachment = hiddenkey.attach(model, "hiddenkey")
    layers = len(anatomy.find_layers(model))
    for position in ("attention_logits", "hidden"):
        sites = {site.layer for site in attachment.sites if site.position == position}
        gaps = {gap.layer: gap.reason for gap in attachment.gaps if gap.position == position}
        assert sites
        assert gaps
        assert sites | set(gaps) == set(range(layers))
        assert not sites & set(gaps)
    reasons = " ".join(gap.reason for gap in attachment.gaps)
    assert "no softmax attention, only NemotronHRMSNorm, NemotronHMamba2Mixer" in reasons
    assert "no feed-forward block, only NemotronHAttention" in reasons
    assert "layers without" in str(attachment)


def test_attention_outside_the_layers_is_named():
    attachment = hiddenkey.attach(build("siglip", "image").model, "hiddenkey")
    outside = [gap for gap in attachment.gaps if gap.layer is None]
    assert [gap.name for gap in outside] == ["vision_model.head.attention"]
    assert outside[0].reason == "attention outside the layers"


def test_a_router_is_no_attention():
    """Mixtral's router takes a softmax over experts."""
    model = build("mixtral", "causal").model
    names = [part.name for part in anatomy.find_attention(anatomy.find_layers(model))]
    assert not any("mlp" in name for name in names)


def test_the_text_tower_of_a_model_with_images():
    model = build("gemma3", "causal").model
    names = {layer.name for layer in anatomy.find_layers(model)}
    assert names
    assert all("language_model" in name for name in names)


@pytest.mark.parametrize(
    ("model_type", "task", "expected"),
    [
        ("gptj", "causal", "ForCausalLM"),
        ("gpt2", "causal", "ForCausalLM"),
        ("xlnet", "causal", "ForMaskedLM"),  # its labels are not shifted
        ("t5", "seq2seq", "ForConditionalGeneration"),
        ("bart", "seq2seq", "ForConditionalGeneration"),
        ("bart", "causal", "ForMaskedLM"),  # nor are its decoder's
        ("vit", "image", "ForImageClassification"),
        ("bert", "classification", "ForSequenceClassification"),
    ],
)
def test_tasks(model_type, task, expected):
    assert anatomy.task_of(build(model_type, task).model) == expected


class Mixer(nn.Module):
    """Attention whose name does not say so."""

    def __init__(self, width):
        super().__init__()
        self.projection = nn.Linear(width, 3 * width)

    def forward(self, states):
        query, key, value = self.projection(states).chunk(3, -1)
        return self.weigh(query @ key.transpose(-1, -2)) @ value

    def weigh(self, logits):
        return torch.softmax(logits, -1)


class Block(nn.Module):
    def __init__(self, width, mixer):
        super().__init__()
        self.mixer = mixer
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, states):
        states = states + self.mixer(states)
        return states + self.down(torch.relu(self.up(states)))


def test_a_module_of_ones_own_can_be_named():
    model = nn.Sequential(Block(8, Mixer(8)), Block(8, Mixer(8)))
    drops = hiddenkey.method("hiddenkey-minus", rate=0.5).drops
    with pytest.raises(AttachError, match="no list of layers with attention in it"):
        hiddenkey.attach(model, "dropkey")
    config = hiddenkey.DropoutConfig(drops, attention_modules=r"\d\.mixer")
    with hiddenkey.attach(model.train(), config) as attachment:
        names = [(site.key, site.name, site.kernel) for site in attachment.sites]
        assert names == [
            ("attention_logits/0", "0.mixer", "intercepted"),
            ("attention_logits/1", "1.mixer", "intercepted"),
            ("hidden/0", "0.down", "hook"),
            ("hidden/1", "1.down", "hook"),
        ]
        model(torch.randn(4, 30, 8))
        assert all(0.3 < share < 0.6 for share in attachment.shares().values())


def test_a_pattern_that_matches_nothing():
    model = build("bert", "classification").model
    drops = hiddenkey.method("dropkey").drops
    with pytest.raises(
        AttachError, match=r"^attention_modules='nothing' fully matches no module's name inside"
    ):
        hiddenkey.attach(model, hiddenkey.DropoutConfig(drops, attention_modules="nothing"))


class Subclass(BertSelfAttention):
    """Attends through the class that it extends."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


def test_attention_of_a_subclass_is_found():
    model = build("bert", "classification").model.train()
    attention = model.bert.encoder.layer[1].attention
    attention.self = Subclass(model.config)
    attachment = hiddenkey.attach(model, "dropkey")
    assert len(attachment.sites) == 2
    assert not attachment.gaps
    model(**build("bert", "classification").batch_right)


def test_a_softmax_without_a_name_is_no_silent_gap():
    blocks = [Block(8, Mixer(8)), Block(8, NamedAttention(8))]
    attachment = hiddenkey.attach(nn.Sequential(*blocks), "dropkey")
    (gap,) = attachment.gaps
    assert gap.layer == 0
    assert gap.reason.startswith("a softmax in 0.mixer (Mixer), of which neither name nor class")
    assert "attention_modules" in gap.reason


class NamedAttention(Mixer):
    """The same under a name that says what it is."""
