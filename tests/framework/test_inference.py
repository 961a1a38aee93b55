"""The rules of the fourth axis, each against its equation in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hiddenkey import ConfigError, Inference, fit_temperature
from hiddenkey.framework.inference import RULES

STEPS = 23


def running(inference, trajectory):
    """The mean as it is kept: one value for each step, its share of what was there."""
    mean = torch.zeros_like(trajectory[0])
    for counted, weights in enumerate(trajectory[inference.first(len(trajectory)) - 1 :], 1):
        mean += inference.share(counted) * (weights - mean)
    return mean


@pytest.mark.parametrize("part", [0.01, 0.25, 0.5, 0.77, 1.0, 1])
def test_the_average_is_the_mean_of_the_last_part(part):
    trajectory = torch.randn(STEPS, 5, dtype=torch.float64)
    taken = max(1, round(part * STEPS))
    found = running(Inference("average", part=part), trajectory)
    torch.testing.assert_close(found, trajectory[-taken:].mean(0), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("decay", [1e-3, 0.5, 0.99, 1 - 1e-9])
def test_the_ema_is_the_weighted_mean_of_all_steps(decay):
    trajectory = torch.randn(STEPS, 5, dtype=torch.float64)
    weights = torch.tensor([decay ** (STEPS - t) for t in range(1, STEPS + 1)], dtype=torch.float64)
    expected = (weights[:, None] * trajectory).sum(0) / weights.sum()
    found = running(Inference("ema", decay=decay), trajectory)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_equal_weights_are_their_own_mean():
    for rule in (Inference("average", part=0.3), Inference("ema", decay=0.9)):
        same = torch.full((STEPS, 2), 0.7, dtype=torch.float64)
        torch.testing.assert_close(running(rule, same), same[0], rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        ({"weights": "averag"}, ["did you mean 'average'"]),
        ({"part": 0}, ["part of an average must be in (0, 1], got 0"]),
        ({"part": 1.5, "decay": 1}, ["got 1.5", "decay of an ema must be in (0, 1), got 1"]),
        ({"part": True, "decay": "0.9", "weights": None}, ["True", "'0.9'", "None"]),
        ({"decay": math.nan, "part": math.inf}, ["nan", "inf"]),
    ],
)
def test_wrong_settings_are_all_told(given, messages):
    with pytest.raises(ConfigError) as refusal:
        Inference(**given)
    for message in messages:
        assert message in str(refusal.value)


def test_a_part_needs_the_number_of_steps():
    with pytest.raises(ConfigError, match="needs its number of steps, got None"):
        Inference("average").first(None)
    assert Inference("average", part=1).first(None) == Inference("ema").first(None) == 1
    assert [Inference("average").first(steps) for steps in (1, 2, 10)] == [1, 2, 6]


def test_each_rule_names_its_paper():
    assert list(RULES) == ["last", "average", "ema", "scale", "temperature"]
    assert all(rule.paper for name, rule in RULES.items() if name != "last")


def nll(logits, labels, temperature):
    return float(torch.nn.functional.cross_entropy(logits.double() / temperature, labels))


@given(st.integers(0, 10**6), st.integers(2, 5), st.sampled_from((0.2, 1.0, 4.0)))
def test_the_temperature_is_the_best_of_a_grid(seed, classes, size):
    generator = torch.Generator().manual_seed(seed)
    logits = size * torch.randn(40, classes, generator=generator)
    labels = torch.multinomial((logits / 2).softmax(-1), 1, generator=generator).squeeze(1)
    found = fit_temperature(logits, labels)
    grid = np.exp(np.linspace(-math.log(20), math.log(20), 1001))
    losses = [nll(logits, labels, float(each)) for each in grid]
    assert nll(logits, labels, found) <= min(losses) + 1e-12
    assert nll(logits, labels, found) <= nll(logits, labels, 1.0) + 1e-12
    best = float(grid[int(np.argmin(losses))])
    if 1 / 19 < best < 19:
        assert found == pytest.approx(best, rel=2 * math.log(20) / 1000)


def test_a_calibrated_model_that_is_made_sure_gets_its_factor_back():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.05)
    assert fit_temperature(3 * logits + 500, labels) == fit_temperature(3 * logits, labels)


def test_without_a_best_temperature_there_is_none():
    logits = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == 1.0  # colder is ever better
    assert fit_temperature(logits, torch.tensor([1, 0])) == pytest.approx(20)  # never right
    assert fit_temperature(torch.zeros(2, 2), torch.tensor([0, 1])) == 1.0  # any is as good


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), "needs a held-out label"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.long), "needs a held-out label"),
        (torch.zeros(3, 1), torch.zeros(3), "leave it out for regression"),
        (torch.zeros(3), torch.zeros(3), "two classes or more"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), "labels from 0 to 1"),
        (torch.zeros(2, 2), torch.tensor([0, -100]), "labels from 0 to 1"),
        (torch.tensor([[math.nan, 0.0]]), torch.tensor([0]), "has diverged"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(logits, labels, message):
    with pytest.raises(ConfigError, match=message):
        fit_temperature(logits, labels)
