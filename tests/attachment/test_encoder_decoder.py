"""Encoder-decoders: both stacks drop, self- and cross-attention, and the loss over targets."""

import dataclasses

import pytest
import torch

import hiddenkey
from hiddenkey import Consistency, DropoutConfig
from model_tables.build import build
from models import assert_same_gradients, gradients, kl_by_hand, seeded, step

# transformers' own advice about its EncoderDecoderModel
pytestmark = pytest.mark.filterwarnings("ignore:Version v4.12.0:FutureWarning")

FAMILIES = ("t5", "bart", "encoder-decoder", "prophetnet")
NOISE = hiddenkey.method("hiddenkey-minus", rate=0.3)


def made(family):
    tiny = build(family, "seq2seq")
    return tiny.model.train(), tiny.batch_right


@pytest.mark.parametrize("backward", ["one", "both"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_compares_each_labelled_target_token(family, backward):
    model, inputs = made(family)
    labelled = inputs["labels"] != -100
    assert not labelled.all()
    with hiddenkey.attach(model, NOISE), seeded(0):
        with torch.set_grad_enabled(backward == "both"):
            other = model(**inputs)
        one = model(**inputs)
        divergence = kl_by_hand(one.logits, other.logits)[labelled].mean()
        task = (one.loss + other.loss) / 2 if backward == "both" else one.loss
        expected = task + 2.0 * divergence
        expected.backward()
    by_hand = gradients(model)
    config = dataclasses.replace(NOISE, consistency=Consistency(weight=2.0, backward=backward))
    with hiddenkey.attach(model, config) as attachment:
        loss, found = step(model, inputs)
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        assert attachment.losses["consistency"] == pytest.approx(2.0 * divergence.item(), rel=1e-4)
    assert divergence > 1e-4
    assert_same_gradients(found, by_hand, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_of_both_stacks_drops(family):
    model, inputs = made(family)
    attachment = hiddenkey.attach(model, NOISE)
    keys = [site.key for site in attachment.sites]
    assert len(keys) == len(set(keys))
    for layer in range(4):
        assert f"attention_logits/{layer}" in keys
        assert f"hidden/{layer}" in keys
        assert (f"attention_logits/{layer}/cross" in keys) == (layer >= 2)
    step(model, inputs)
    assert all(0.1 < share < 0.4 for share in attachment.shares().values())


@pytest.mark.parametrize(("kinds", "count"), [(("self",), 4), (("cross",), 2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_self_and_cross_attention_can_be_chosen(family, kinds, count):
    model, inputs = made(family)
    config = DropoutConfig(hiddenkey.method("dropkey", rate=0.4).drops, attention=kinds)
    attachment = hiddenkey.attach(model, config)
    assert len(attachment.sites) == count
    assert {gap.reason for gap in attachment.gaps} <= {"no cross-attention"}
    assert len({gap.layer for gap in attachment.gaps} | {s.layer for s in attachment.sites}) == 4
    losses = {step(model, inputs, seed)[0] for seed in range(3)}
    assert len(losses) == 3
    assert all(0.1 < share < 0.6 for share in attachment.shares().values())


def test_the_decoders_own_padding_is_that_of_its_mask():
    """Columns of padding do not count, on either side."""
    model, inputs = made("bart")
    targets = inputs["labels"].shape[1]
    inputs["decoder_attention_mask"] = torch.ones(4, targets, dtype=torch.long)
    inputs["decoder_attention_mask"][:, 3:] = 0
    attachment = hiddenkey.attach(model, hiddenkey.method("hiddencut-column", rate=0.5))
    for seed in range(20):
        step(model, inputs, seed)
    assert all(share == pytest.approx(0.5, abs=0.12) for share in attachment.shares().values())


def test_noise_in_the_decoder_alone_runs_the_encoder_once():
    model, inputs = made("t5")
    config = dataclasses.replace(NOISE, consistency=Consistency(), layers=(2, 3))
    calls = []
    attachment = hiddenkey.attach(model, config)
    step(model, inputs)  # the first one also looks whether sharing changes anything
    model.encoder.block[0].layer[0].register_forward_hook(lambda *_: calls.append(1))
    assert "lower 2 layers shared" in str(attachment)
    shared, found = step(model, inputs)
    assert len(calls) == 1
    attachment._step.shared = None
    whole, expected = step(model, inputs)
    assert len(calls) == 3
    assert shared == pytest.approx(whole, rel=1e-5)
    assert_same_gradients(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_part_of_the_batch(family):
    model, inputs = made(family)
    config = dataclasses.replace(NOISE, consistency=Consistency(fraction=0.5))
    attachment = hiddenkey.attach(model, config)
    loss, found = step(model, inputs)
    assert attachment.losses["consistency"] > 0
    assert sum(attachment.losses.values()) == pytest.approx(loss, rel=1e-5)
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_labels_of_several_codebooks_are_refused():
    tiny = build("musicgen", "causal")
    hiddenkey.attach(tiny.model.train(), "hiddenkey")
    with pytest.raises(
        hiddenkey.ConsistencyError, match=r"one prediction for each token, got labels of shape"
    ):
        tiny.model(**tiny.batch_right)
    hiddenkey.attach(tiny.model, "hiddenkey-minus")
    tiny.model(**tiny.batch_right).loss.backward()
