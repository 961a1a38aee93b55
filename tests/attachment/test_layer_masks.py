"""Padding that the model's call does not tell, read from the masks that its layers are given."""

import copy
import io
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    VisualBertConfig,
    VisualBertModel,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
    WavLMConfig,
    WavLMForSequenceClassification,
)

import attention_kernels
import hiddenkey
from attention_kernels import use_flash, use_flex
from hiddenkey import Drop, DropoutConfig
from hiddenkey.attachment.attachment import attachment_of
from hiddenkey.attachment.layer_masks import LayerMasks
from hiddenkey.framework.patterns import PATTERNS
from masks import watch_draws
from models import (
    assert_same_gradients,
    batch,
    gradients,
    lora_model,
    plain_model,
    run,
    seeded,
    step,
)

SPAN = DropoutConfig((Drop("hidden", "span", 0.4),))
ELEMENT = DropoutConfig((Drop("hidden", "element", 0.4),))
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48, "hidden_dropout": 0.0, "attention_dropout": 0.0}
SOUND = {
    "conv_dim": (16, 16),
    "conv_kernel": (10, 4),
    "conv_stride": (5, 4),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 4,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
    "num_labels": 3,
    "classifier_proj_size": 8,
}
WAV2VEC2 = (Wav2Vec2ForSequenceClassification, Wav2Vec2Config)
KINDS = [
    (*WAV2VEC2, "sdpa"),
    (*WAV2VEC2, "eager"),
    (WavLMForSequenceClassification, WavLMConfig, "eager"),
]


def speech(model=WAV2VEC2[0], config=WAV2VEC2[1], attention="sdpa"):
    with seeded(0):
        return model(config(**SIZES, **SOUND, attn_implementation=attention)).train()


def sounds():
    """Three sounds; of their samples [400, 200, 300] are no padding."""
    mask = torch.zeros(3, 400, dtype=torch.long)
    for row, length in enumerate((400, 200, 300)):
        mask[row, :length] = 1
    values = torch.randn(3, 400, generator=torch.Generator().manual_seed(0))
    return {"input_values": values * mask, "attention_mask": mask, "labels": torch.arange(3)}


@pytest.fixture
def seen(monkeypatch):
    """What every drop takes for visible, in order."""
    return watch_draws(monkeypatch)


def fallen_units(model, inputs, seed=3):
    found = []
    for place in attachment_of(model).sites:
        module = model.get_submodule(place.name)
        module.register_forward_hook(lambda module, args, y: found.append(y.eq(0)))
    with seeded(seed):
        model(**inputs)
    return found


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0].__name__}-{kind[2]}")
def test_frames_of_a_sound_whose_samples_are_padded(kind):
    inputs, model = sounds(), speech(*kind)
    frames = 19  # ((400 - 10) // 5 + 1 - 4) // 4 + 1
    lengths = model._get_feat_extract_output_lengths(inputs["attention_mask"].sum(-1))
    visible = torch.arange(frames) < lengths[:, None]
    assert lengths.tolist() == [19, 9, 14]
    attachment = hiddenkey.attach(model, SPAN)
    for fallen in fallen_units(model, inputs):
        assert not fallen[~visible].any()
        spans = [round(0.4 * length) for length in lengths.tolist()]
        assert fallen.all(-1).sum(-1).tolist() == spans
    shares = list(attachment.shares().values())
    assert shares == pytest.approx([sum(spans) / lengths.sum().item()] * 2)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_layer_that_runs_again_sees_the_mask_of_its_own_pass(reentrant, seen):
    model = speech()
    for layer in model.wav2vec2.encoder.layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=reentrant)
    hiddenkey.attach(model, SPAN)
    first, second = sounds(), sounds()
    second["attention_mask"] = second["attention_mask"].flip(0)
    with seeded(0):
        loss = model(**first).loss + model(**second).loss
    forward = list(seen)
    loss.backward()
    assert not torch.equal(forward[0], forward[2])
    again = seen[4:]
    assert len(again) == 4
    expected = sorted(mask.sum(-1).tolist() for mask in forward)
    assert sorted(mask.sum(-1).tolist() for mask in again) == expected
    assert all(map(torch.equal, again, forward[::-1]))


def test_a_text_with_patches_behind_it():
    with seeded(0):
        config = VisualBertConfig(**SIZES, vocab_size=60, visual_embedding_dim=8)
        model = VisualBertModel(config).train()
    inputs = batch(padding="right")
    del inputs["labels"]
    patches = torch.ones(4, 3)
    patches[2, 1:] = 0
    visible = torch.cat([inputs["attention_mask"], patches], 1).bool()
    hiddenkey.attach(model, ELEMENT)
    more = {"visual_embeds": torch.randn(4, 3, 8), "visual_attention_mask": patches}
    for fallen in fallen_units(model, {**inputs, **more}):
        assert not fallen[~visible].any()
        assert fallen[visible].any()


def four_axes(inputs, dtype=torch.bool):
    """A causal batch with its mask as a script of one's own may lay it out."""
    tokens = inputs["input_ids"].shape[1]
    order = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    shown = order & inputs["attention_mask"][:, None, None].bool()
    if dtype is not torch.bool:
        shown = torch.zeros(shown.shape).masked_fill(~shown, torch.finfo(dtype).min)
    return {**inputs, "attention_mask": shown}


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
@pytest.mark.parametrize("position", ["hidden", "input"])
@pytest.mark.parametrize("pattern", ["span", "element"])
def test_a_mask_of_four_axes_drops_as_that_of_two(pattern, position, dtype):
    inputs, found = batch("causal", "right"), []
    for given in (inputs, four_axes(inputs, dtype)):
        model = plain_model("llama", "causal")
        attachment = hiddenkey.attach(model, DropoutConfig((Drop(position, pattern, 0.4),)))
        found.append((run(model, given).loss.item(), attachment.shares()))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert found[1][1] == found[0][1]


def test_copies_and_saved_models_read_their_own():
    model, inputs = plain_model("llama", "causal"), four_axes(batch("causal", "right"))
    attachment = hiddenkey.attach(model, SPAN)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    expected, shares = step(model, inputs)[0], attachment.shares()
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert step(other, inputs)[0] == expected
        assert attachment_of(other).shares() == shares
    attachment.detach()
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_compiled_step_reads_them_too():
    model, inputs = speech(), sounds()
    attachment = hiddenkey.attach(model, SPAN)
    with seeded(0):
        expected = model(**inputs).loss.item()
    shares = attachment.shares()
    compiled = torch.compile(model, backend="eager")
    with seeded(0):
        assert compiled(**inputs).loss.item() == pytest.approx(expected, rel=1e-5)
    assert attachment.shares() == pytest.approx(shares, abs=0.15)


class ByKind(nn.Module):
    """A feed-forward block that sees the tokens of one kind alone, as of one modality."""

    def __init__(self, dense):
        super().__init__()
        self.dense = dense
        self.of_kind = None

    def forward(self, states, residual):
        output = torch.zeros_like(residual)
        output[self.of_kind] = self.dense(states[self.of_kind])
        return residual + output


@pytest.mark.parametrize("pattern", ["span", "column", "element", "feature"])
def test_some_tokens_of_the_batch_are_dropped_as_one_sequence(pattern):
    model, inputs = plain_model("bert"), batch(padding="none")
    of_kind = inputs["input_ids"] % 2 == 0
    for layer in model.bert.encoder.layer:
        layer.output = ByKind(layer.output.dense)
        layer.output.of_kind = of_kind
    chosen = int(of_kind.sum())
    assert chosen not in (4, 36)
    attachment = hiddenkey.attach(model, DropoutConfig((Drop("hidden", pattern, 0.4),)))
    assert len(attachment.sites) == 2
    for fallen in fallen_units(model.train(), inputs):
        assert fallen.shape == (chosen, 32)
        if pattern == "span":
            (places,) = fallen.all(-1).nonzero(as_tuple=True)
            assert len(places) == round(0.4 * chosen)
            assert places.diff().eq(1).all()
        elif pattern == "feature":
            assert fallen.eq(fallen[:1]).all()
        assert 0 < fallen.float().mean() < 1
    assert all(0 < share < 1 for share in attachment.shares().values())


LENGTHS = [(5, 4), (2, 7)]


def packed():
    """Two rows of two texts each, told by positions that begin again."""
    inputs = batch("causal", "none", size=2)
    places = [torch.cat([torch.arange(length) for length in row]) for row in LENGTHS]
    texts = {"input_ids": inputs["input_ids"], "position_ids": torch.stack(places)}
    return {**texts, "use_cache": False}  # with a cache, transformers takes a row for one text


def of_each_text(units):
    return [
        part for row, lengths in zip(units, LENGTHS, strict=True) for part in row.split(lengths)
    ]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("position", ["hidden", "input"])
def test_a_run_stays_within_each_text_of_a_packed_row(position, attention):
    model = plain_model("llama", "causal", attention=attention)
    attachment = hiddenkey.attach(model, DropoutConfig((Drop(position, "span", 0.4),)))
    found = []
    module = model.get_submodule(attachment.sites[0].name)
    if position == "hidden":
        module.register_forward_hook(lambda module, args, y: found.append(y))
    else:
        module.register_forward_pre_hook(lambda module, args: found.append(args[0]))
    for seed in range(6):
        run(model, packed(), seed=seed)
        fallen = of_each_text(found.pop().eq(0).all(-1))
        assert [int(text.sum()) for text in fallen] == [2, 2, 1, 3]
        assert all(text.nonzero().diff(dim=0).eq(1).all() for text in fallen)
    assert all(share == pytest.approx(8 / 18) for share in attachment.shares().values())


@pytest.fixture
def kernels(monkeypatch):
    use_flash(monkeypatch)
    use_flex(monkeypatch)


without_masks = pytest.mark.parametrize(
    "told", ["flash, by positions", "flash, by lengths", "flex"]
)


@without_masks
def test_a_run_stays_within_each_text_where_a_kernel_has_no_mask(told, kernels):
    model = attention_kernels.model_of("llama", told.partition(",")[0])
    attachment = hiddenkey.attach(model, SPAN)
    found = []
    module = model.get_submodule(attachment.sites[0].name)
    module.register_forward_hook(lambda module, args, y: found.append(y))
    inputs = attention_kernels.packed(told.endswith("lengths"))
    for seed in range(4):
        run(model, inputs, seed=seed)
        fallen = found.pop().eq(0).all(-1)[0]
        texts = fallen.split([len(text) for text in attention_kernels.SEQUENCES])
        assert [int(text.sum()) for text in texts] == [2, 1, 1]
        assert all(text.nonzero().diff(dim=0).eq(1).all() for text in texts)
    assert all(share == pytest.approx(0.4) for share in attachment.shares().values())


@without_masks
def test_states_of_some_tokens_of_packed_texts_are_not_taken_for_all(told, kernels):
    model = attention_kernels.model_of("llama", told.partition(",")[0])
    layer = model.model.layers[0]
    hiddenkey.attach(model, DropoutConfig())  # the own dropout off, which these kernels refuse
    masks, found = LayerMasks([layer], packed=True), []
    layer.mlp.register_forward_pre_hook(
        lambda module, args: found.extend(masks.tokens(torch.Size((1, n))) for n in (10, 4))
    )
    model(**attention_kernels.packed(told.endswith("lengths")))
    masks.remove()
    assert found[0][1].tolist() == [[0] * 5 + [1] * 2 + [2] * 3]
    assert found[1] is None


@without_masks
def test_layers_that_run_again_see_the_same_texts(told, kernels):
    found = []
    for again in (False, True):
        model = attention_kernels.model_of("llama", told.partition(",")[0])
        for layer in model.model.layers:
            layer.gradient_checkpointing = again
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        hiddenkey.attach(model, SPAN)
        logits = run(model, attention_kernels.packed(told.endswith("lengths"))).logits
        logits.square().sum().backward()
        found.append(gradients(model))
    assert_same_gradients(*found)


def test_features_are_drawn_for_each_text_of_a_packed_row():
    model = plain_model("llama", "causal")
    attachment = hiddenkey.attach(model, DropoutConfig((Drop("hidden", "feature", 0.4),)))
    fallen = fallen_units(model, packed())
    for texts in map(of_each_text, fallen):
        assert all(text.eq(text[:1]).all() for text in texts)
        assert len({tuple(text[0].tolist()) for text in texts}) == 4
    assert all(0.2 < share < 0.6 for share in attachment.shares().values())


def first_token(shape, rate, visible):
    """Drop the first token of each sequence, if any."""
    first = torch.arange(shape[-2], device=visible.device)[:, None] == 0
    drawn = torch.rand((*shape[:-2], 1, 1), device=visible.device) < rate
    return ~(first & drawn) | ~visible


def test_a_pattern_of_ones_own_is_drawn_for_each_text_of_a_packed_row(monkeypatch):
    monkeypatch.setitem(PATTERNS, "first", first_token)
    model = plain_model("llama", "causal")
    hiddenkey.attach(model, DropoutConfig((Drop("hidden", "first", 0.5),)))
    begins = torch.cat([torch.arange(length) for row in LENGTHS for length in row]).view(2, -1) == 0
    drawn = []
    for seed in range(8):
        for fallen in fallen_units(model, packed(), seed=seed):
            assert not fallen[~begins].any()
            assert fallen[begins].all(-1).eq(fallen[begins].any(-1)).all()
            drawn.append(tuple(fallen[begins].all(-1).tolist()))
    assert len(set(drawn)) > 8  # of the 16 ways in which four texts can fall
    assert 0.3 < torch.tensor(drawn).float().mean() < 0.7


@pytest.mark.parametrize("pattern", ["rank", "two-sided", "adapter", "element"])
def test_updates_of_packed_rows(pattern):
    model = lora_model("llama", "causal")
    attachment = hiddenkey.attach(model, DropoutConfig((Drop("update", pattern, 0.4),)))
    run(model, packed()).logits.sum().backward()
    assert all(0 <= share <= 1 for share in attachment.shares().values())
