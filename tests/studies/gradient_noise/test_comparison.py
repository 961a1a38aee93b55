"""Noise and bias of one gradient against another, where both are known."""

import math

import pytest
import torch

from gradient_noise.attention_maps import MapStatistics
from gradient_noise.comparison import compare
from gradient_noise.measurement import Point, Setting
from gradient_noise.moments import GROUPS, GradientStream

MASKS, SIZE = 100 * GROUPS, 12
MATRICES = ("layer.0.key.lora_A", "layer.0.key.lora_B")


def setting(*, bias, deviation, between):
    """One batch; DropAttention's gradient is DropKey's with a bias and normal noise on top.

    DropKey's has the mean 1 and the standard deviation 1 in all its entries.
    """
    generator = torch.Generator().manual_seed(0)
    streams = {name: GradientStream() for name in ("dropkey", "dropattention", "extra")}
    for index in range(MASKS):
        key = {name: 1 + torch.randn(SIZE, generator=generator) for name in MATRICES}
        extra = {
            name: bias + deviation * torch.randn(SIZE, generator=generator) for name in MATRICES
        }
        both = {name: key[name] + extra[name] for name in MATRICES}
        for name, found in zip(streams, (key, both, extra), strict=True):
            streams[name].add(index % GROUPS, found)
    plain = {name: torch.ones(SIZE) for name in MATRICES}
    moments = {name: [stream.moments(plain)] for name, stream in streams.items()}
    point = Point(0.5, 10, 1.0, between)
    return Setting(point, "column", 0.1, moments, MapStatistics().findings(), 0.0, 1.0)


def test_bias_along_the_mean_is_told_from_noise():
    found = compare(setting(bias=0.5, deviation=2.0, between=dict.fromkeys(MATRICES, 24.0)))
    assert found.methods["dropkey"].snr.value == pytest.approx(1.0, rel=0.05)
    assert found.methods["dropattention"].snr.value == pytest.approx(2.25 / 5, rel=0.05)
    assert found.noise_ratio.value == pytest.approx(5.0, rel=0.05)
    assert found.noise_ratio.low < 5.0 < found.noise_ratio.high
    assert found.bias.value == pytest.approx(0.5, rel=0.1)
    assert found.cosine.value == pytest.approx(1.0, abs=0.01)
    assert found.loss_snr.value == pytest.approx(1 / 5.25, rel=0.05)
    assert found.methods["dropkey"].of_batch_noise == pytest.approx(0.5, rel=0.05)
    assert found.methods["dropattention"].distance.value == pytest.approx(0.5, rel=0.1)


def test_bias_across_the_mean_turns_the_gradient():
    signs = torch.ones(SIZE)
    signs[::2] = -1.0
    found = compare(setting(bias=signs, deviation=0.0, between={}))
    assert found.cosine.value == pytest.approx(math.sqrt(0.5), rel=0.02)
    assert found.bias.value == pytest.approx(1.0, rel=0.02)
    assert found.noise_ratio.value == pytest.approx(1.0)
    assert found.methods["dropkey"].of_batch_noise is None


def test_matrices_can_be_chosen():
    both = setting(bias=0.5, deviation=1.0, between=dict.fromkeys(MATRICES, 12.0))
    one = compare(both, lambda name: name.endswith("lora_A"))
    assert one.noise_ratio.value != compare(both).noise_ratio.value
    assert one.methods["dropkey"].of_batch_noise == pytest.approx(1.0, rel=0.1)
