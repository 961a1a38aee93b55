"""Noise in feature maps: which units of [batch, channels, height, width] are dropped together."""

import pytest
import torch
from torch import nn

from hiddenkey import Drop
from hiddenkey.measure import ShareCounter
from hiddenkey.sequence import drop as sequence
from hiddenkey.sequence.site import SequenceSite
from masks import within_chance

RATE = 0.3
SHAPE = (64, 6, 5, 7)
PATTERNS = ("element", "column", "span", "feature")


def site(pattern, counts=True, rescale=None):
    drop = Drop("hidden", pattern, RATE, rescale)
    return SequenceSite(drop, visible=lambda: None, counting=lambda: counts)


def draw(pattern):
    torch.manual_seed(0)
    return sequence.draw_map(pattern, RATE, torch.empty(SHAPE)).expand(SHAPE)


@pytest.mark.parametrize(
    ("pattern", "kept_axes"),
    [("element", (0, 1, 2, 3)), ("column", (0, 2, 3)), ("feature", (0, 1))],
)
def test_units_are_entries_places_or_channels(pattern, kept_axes):
    keep = draw(pattern)
    shared = [axis for axis in range(4) if axis not in kept_axes]
    units = keep
    for axis in shared:
        assert keep.equal(keep.narrow(axis, 0, 1).expand(SHAPE))
        units = units.narrow(axis, 0, 1)
    assert within_chance((~units).sum().item(), units.numel(), RATE)
    for axis in kept_axes:  # neighbours along the axis are dropped by draws of their own
        assert not keep.equal(keep.narrow(axis, 0, 1).expand(SHAPE))


def test_a_span_is_a_rectangle_in_all_channels():
    keep = draw("span")
    assert keep.equal(keep[:, :1].expand(SHAPE))
    for image in ~keep[:, 0]:
        rows, columns = image.any(1), image.any(0)
        assert image.equal(rows.unsqueeze(1) & columns.unsqueeze(0))
        for run in (rows, columns):
            assert (run.nonzero().flatten().diff() == 1).all()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("rescale", ["inverse", "none"])
def test_values_and_gradients_are_the_mask_over_the_kept_share(pattern, rescale):
    states = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(SHAPE, dtype=torch.float64)
    module = nn.Identity()
    acting = site(pattern, rescale=rescale)
    acting.hook(module, before=False)
    torch.manual_seed(0)
    found = module(states)
    (gradient,) = torch.autograd.grad((found * weights).sum(), states)
    factor = draw(pattern).double() * (1 / (1 - RATE) if rescale == "inverse" else 1.0)
    torch.testing.assert_close(found, states * factor, rtol=1e-14, atol=0)
    torch.testing.assert_close(gradient, weights * factor, rtol=1e-14, atol=0)
    assert acting.counter.read() == pytest.approx((factor == 0).double().mean().item(), rel=1e-6)


@pytest.mark.parametrize("pattern", ["element", "column", "feature"])
def test_the_expected_value_is_the_state_itself(pattern):
    draws = 4_000
    states = torch.ones(draws, 2, 3, 3, dtype=torch.float64)
    module = nn.Identity()
    site(pattern).hook(module, before=False)
    torch.manual_seed(0)
    means = module(states).mean(0)
    deviation = (RATE / (1 - RATE) / draws) ** 0.5
    assert (means - 1).abs().max() < 5 * deviation


def test_the_expected_sum_over_a_map_is_kept_by_blocks():
    """Places near the edge are in fewer blocks, as tokens at the ends are in fewer spans."""
    draws = 20_000
    module = nn.Identity()
    site("span").hook(module, before=False)
    torch.manual_seed(0)
    means = module(torch.ones(draws, 1, 6, 6, dtype=torch.float64)).mean((1, 2, 3))
    assert abs(means.mean() - 1) < 5 * means.std() / draws**0.5


def test_evaluation_and_uncounted_draws():
    states = torch.randn(SHAPE)
    module = nn.Identity().eval()
    acting = site("span", counts=False)
    acting.hook(module, before=False)
    assert module(states) is states
    assert not module.train()(states).equal(states)
    assert not acting.counter.has_counted


def test_a_convolution_s_map_is_read_channels_first_and_a_linear_layer_s_last():
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 6, 1, bias=False)
    nn.init.ones_(convolution.weight)
    site("column").hook(convolution, before=False)
    dropped = convolution(torch.ones(4, 3, 8, 8)) == 0
    assert dropped.any()
    assert dropped.equal(dropped[:, :1].expand_as(dropped))
    linear = nn.Linear(3, 6, bias=False)
    nn.init.ones_(linear.weight)
    site("column").hook(linear, before=False)
    dropped = linear(torch.ones(4, 8, 8, 3)) == 0
    assert dropped.any()
    assert dropped.equal(dropped[..., :1].expand_as(dropped))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_tokens_of_a_recurrent_layer_are_found_in_either_order(kind, batch_first):
    torch.manual_seed(0)
    visible = torch.arange(9) < torch.tensor([[9], [4], [6]])
    module = kind(5, 8, batch_first=batch_first)
    counter = ShareCounter()
    acting = SequenceSite(
        Drop("hidden", "column", 0.5), lambda: visible, lambda: True, counter=counter
    )
    acting.hook(module, before=False)
    states, _ = module(torch.randn((3, 9, 5) if batch_first else (9, 3, 5)))
    states = states if batch_first else states.transpose(0, 1)
    dropped = (states == 0).all(-1)
    assert (states == 0).equal(dropped.unsqueeze(-1).expand_as(states))
    assert dropped.any()
    assert not (dropped & ~visible).any()
    assert counter.read() == pytest.approx(dropped.sum().item() / visible.sum().item())
