"""Running means of earlier predictions, and the classes that are kept of a vocabulary."""

from __future__ import annotations

import pytest
import torch

import hiddenkey
from earlier_passes import TOP, change, config, shortened_by_hand, without_noise
from hiddenkey import DropoutConfig
from models import VOCABULARY, assert_same_gradients, batch, kl_by_hand, step


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
