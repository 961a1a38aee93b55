"""Streamed moments against direct computation, and estimators where the truth is known."""

import math

import pytest
import torch
from scipy import stats

from gradient_noise.moments import (
    GROUPS,
    Estimate,
    GradientStream,
    jackknife,
    pool,
    variance_between,
)

MATRIX = "layer.0.key.lora_A"


def drawn(masks, mean, deviation, generator):
    """Gradients to one matrix: normal around a mean."""
    noise = torch.randn(masks, *mean.shape, generator=generator, dtype=torch.float64)
    return mean + deviation * noise


def streamed(gradients, plain):
    stream = GradientStream()
    for index, gradient in enumerate(gradients):
        stream.add(index % GROUPS, {MATRIX: gradient})
    return stream.moments({MATRIX: plain})[MATRIX]


def direct(gradients, plain):
    """Signal, noise and overlap from all gradients, as the formulas say."""
    rows = torch.stack(list(gradients)).flatten(1).double()
    noise = rows.var(0).sum()
    mean = rows.mean(0)
    return mean @ mean - noise / len(rows), noise, mean @ plain.flatten().double()


def test_moments_are_those_of_all_gradients_and_of_all_but_each_group():
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(3, 5, generator=generator)
    gradients = drawn(3 * GROUPS, plain.double() + 0.3, 0.7, generator).float()
    moments = streamed(gradients, plain)
    samples = [list(gradients)] + [
        [gradient for index, gradient in enumerate(gradients) if index % GROUPS != group]
        for group in range(GROUPS)
    ]
    for index, sample in enumerate(samples):
        found = (moments.signal[index], moments.noise[index], moments.overlap[index])
        torch.testing.assert_close(torch.stack(found), torch.stack(direct(sample, plain)))
    torch.testing.assert_close(moments.plain, plain.double().square().sum().expand(1 + GROUPS))


def test_signal_and_noise_are_unbiased_and_the_plain_squared_mean_is_not():
    """Weak signal, few masks: ‖ḡ‖² is tr Cov / n too large, which the estimator takes off."""
    generator = torch.Generator().manual_seed(1)
    mean, deviation = torch.full((6,), 0.2, dtype=torch.float64), 0.5
    signal, noise = mean.square().sum().item(), 6 * deviation**2
    found, naive = [], []
    for _ in range(300):
        gradients = drawn(GROUPS, mean, deviation, generator)
        moments = streamed(gradients, mean)
        found.append((moments.signal[0].item(), moments.noise[0].item()))
        naive.append(gradients.mean(0).square().sum().item())
    for values, truth in zip(zip(*found, strict=True), (signal, noise), strict=True):
        error = stats.sem(values)
        assert abs(sum(values) / len(values) - truth) < 4 * error
    excess = sum(naive) / len(naive) - signal
    assert excess == pytest.approx(noise / GROUPS, rel=0.2)


def test_the_interval_of_snr_holds_the_truth_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(2)
    mean, deviation = torch.full((40,), 0.2, dtype=torch.float64), 0.3
    truth = mean.square().sum().item() / (40 * deviation**2)
    held = 0
    for _ in range(80):
        estimate = jackknife(streamed(drawn(4 * GROUPS, mean, deviation, generator), mean).snr)
        held += estimate.low < truth < estimate.high
    assert 0.88 <= held / 80 <= 1.0


def test_the_jackknife_of_a_mean_is_students_interval():
    values = torch.tensor([1.0, 4.0, 2.0, 5.0, 3.5, 0.0, 2.5, 6.0], dtype=torch.float64)
    without = (values.sum() - values) / (len(values) - 1)
    found = jackknife(torch.cat([values.mean().view(1), without]))
    low, high = stats.t.interval(0.95, 7, values.mean().item(), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((values.mean().item(), low, high))


def test_what_is_undefined_is_none():
    zeros = streamed(torch.zeros(GROUPS, 4), torch.zeros(4))
    assert jackknife(zeros.snr) == Estimate(None, None, None)
    assert jackknife(zeros.cosine) == Estimate(None, None, None)


def test_without_noise_cosine_and_distance_are_exact():
    plain = torch.tensor([3.0, 4.0])
    moments = streamed([torch.tensor([6.0, 8.0])] * GROUPS, plain)
    assert jackknife(moments.cosine) == Estimate(1.0, 1.0, 1.0)
    assert jackknife(moments.distance) == Estimate(1.0, 1.0, 1.0)
    turned = streamed([torch.tensor([-4.0, 3.0])] * GROUPS, plain)
    assert jackknife(turned.cosine).value == pytest.approx(0.0)
    assert jackknife(turned.distance).value == pytest.approx(math.sqrt(2))


def test_pooled_moments_are_those_of_the_joined_gradient():
    generator = torch.Generator().manual_seed(3)
    plain = torch.randn(2, 7, generator=generator)
    gradients = plain + torch.randn(2 * GROUPS, 2, 7, generator=generator)
    parts = [streamed(gradients[:, part], plain[part]) for part in range(2)]
    pooled, joined = pool(parts), streamed(gradients, plain)
    for name in ("signal", "noise", "overlap", "plain", "snr", "cosine", "distance"):
        torch.testing.assert_close(getattr(pooled, name), getattr(joined, name))


def test_variance_between_batches():
    rows = torch.tensor([[0.0, 2.0], [4.0, 2.0], [2.0, 5.0]])
    found = variance_between([{MATRIX: row} for row in rows])
    assert found == {MATRIX: pytest.approx(4.0 + 3.0)}
    assert variance_between([{MATRIX: rows[0]}]) == {}
