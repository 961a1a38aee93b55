"""Batch normalisation counts a batch once, however many passes a loss takes."""

import dataclasses

import pytest
import torch
from torch import nn
from transformers import LevitConfig, LevitForImageClassification

import hiddenkey
from hiddenkey import Consistency
from models import seeded

LABELS = torch.tensor([0, 1, 0, 1])
CASES = {
    "hiddenkey": hiddenkey.method("hiddenkey", rate=0.3),
    "both branches": dataclasses.replace(
        hiddenkey.method("hiddenkey", rate=0.3), consistency=Consistency(backward="both")
    ),
    "a part of the batch": dataclasses.replace(
        hiddenkey.method("hiddenkey", rate=0.3), consistency=Consistency(fraction=0.5)
    ),
    "upper layers": dataclasses.replace(hiddenkey.method("hiddenkey", rate=0.3), layers=(8, 9)),
    "temporal": hiddenkey.method("temporal"),
    "label-smoothing": hiddenkey.method("label-smoothing"),
}


def levit():
    size = {"hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1]}
    with seeded(0):
        config = LevitConfig(image_size=32, key_dim=[8, 8, 8], num_labels=2, **size)
        return LevitForImageClassification(config).train()


def statistics(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}


def counts(model):
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    return {int(m.num_batches_tracked) for m in model.modules() if isinstance(m, kinds)}


def train(config):
    """Two training passes at rate 0; return the model."""
    model = levit()
    if config is not None:
        attachment = hiddenkey.attach(model, config)
        attachment.set_rates(dict.fromkeys(attachment.rates, 0.0))
    for seed in range(2):
        with seeded(seed):
            images = torch.randn(4, 3, 32, 32)
        model(pixel_values=images, labels=LABELS).loss.backward()
    return model


@pytest.mark.parametrize("name", CASES)
def test_running_statistics_are_those_of_one_pass_a_step(name):
    plain, ours = train(None), train(CASES[name])
    assert counts(ours) == counts(plain) == {2}
    expected = statistics(plain)
    assert expected
    for key, found in statistics(ours).items():
        torch.testing.assert_close(found, expected[key], rtol=1e-5, atol=1e-7)


def test_they_are_tracked_again_after_a_pass_that_failed():
    model = levit()
    hiddenkey.attach(model, CASES["hiddenkey"])
    broken = model.classifier.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(pixel_values=torch.randn(4, 3, 32, 32), labels=LABELS)
    broken.remove()
    normalising = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert all(module.track_running_stats for module in normalising)
