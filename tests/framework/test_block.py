"""The block of a feature map: one rectangle, of the expected area, anywhere that it fits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hiddenkey.framework.patterns import block
from masks import RATES, SEEDS, within_chance

ALL = torch.ones(1, 1, 1, 1, dtype=torch.bool)
SIZES = st.integers(1, 12)


def draw(rate, maps=1, height=8, width=8, visible=ALL):
    return block.keep_mask((maps, height, width, 3), rate, visible)


@settings(max_examples=50)
@given(rate=RATES, height=SIZES, width=SIZES, seed=SEEDS)
def test_one_rectangle_is_dropped_whose_sides_are_those_of_the_rate(rate, height, width, seed):
    torch.manual_seed(seed)
    keep = draw(rate, 1, height, width)
    assert keep.shape == (1, height, width, 1)
    assert keep.dtype == torch.bool
    places = (~keep[0, ..., 0]).nonzero()
    if not len(places):
        return
    low, high = places.min(0).values, places.max(0).values
    sides = (high - low + 1).tolist()
    assert len(places) == sides[0] * sides[1]  # no place of the rectangle is kept
    for side, size in zip(sides, (height, width), strict=True):
        assert math.floor(math.sqrt(rate) * size) <= side <= math.floor(math.sqrt(rate) * size) + 1


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3, 0.7])
def test_the_mean_area_is_the_rate(rate):
    torch.manual_seed(0)
    maps, height, width = 20_000, 8, 5
    areas = (~draw(rate, maps, height, width)).double().sum((1, 2, 3)) / (height * width)
    assert abs(areas.mean() - rate) < 5 * areas.std() / math.sqrt(maps)


def test_the_place_is_uniform_over_all_where_the_rectangle_fits():
    torch.manual_seed(0)
    keep = draw(0.25, 15_000, 4, 8)  # exactly 2 × 4, so 3 · 5 places
    corner = (~keep[..., 0]).flatten(1).int().argmax(1)
    counts = torch.bincount(corner, minlength=32).view(4, 8)
    assert counts[3:].sum() == counts[:, 5:].sum() == 0
    assert stats.chisquare(counts[:3, :5].flatten()).pvalue > 1e-4


def test_maps_draw_one_by_one_and_rate_zero_keeps_all():
    torch.manual_seed(0)
    assert len(torch.unique(draw(0.25, 200).flatten(1), dim=0)) > 20
    assert draw(0.0, 50).all()


def test_what_is_not_visible_is_kept():
    torch.manual_seed(0)
    visible = torch.rand(2_000, 6, 6, 1) > 0.5
    keep = draw(0.4, 2_000, 6, 6, visible)
    assert (keep | visible).all()
    seen = visible.sum().item()
    # neighbours fall together, so that chance is that of the 2,000 maps
    assert abs((~keep).sum().item() / seen - 0.4) < 0.02
    assert not within_chance((~keep).sum().item(), seen, 0.3)
