import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hiddenkey.lab.evidence.statistics import Description, describe

# as metrics are: few digits, so that shifts and scales lose none
METRICS = st.integers(-1000, 1000).map(lambda value: value / 1000)


def test_three_values_by_hand():
    # mean 2; deviations -1, 0, 1, so the variance is 2 / 2 = 1. Of the 27 resamples one is all 1
    # and one is all 3, each 3.7 % and thus more than 2.5 %: the interval reaches from 1 to 3. (The
    # values lie evenly, so that neither bias nor acceleration moves it.)
    found = describe([1.0, 3.0, 2.0])
    assert found == Description(3, 2.0, 1.0, 1.0, 3.0, found.note)


def test_the_interval_is_scipys():
    values = np.random.default_rng(1).normal(0.8, 0.02, size=12)
    found = describe(values)
    theirs = stats.bootstrap((values,), np.mean, rng=7, n_resamples=50_000).confidence_interval
    assert found.mean == pytest.approx(values.mean())
    assert found.deviation == pytest.approx(values.std(ddof=1))
    # a bound of 4,999 resamples has an error of its own: about 4 % of the half width
    tolerance = 0.1 * (theirs.high - theirs.low) / 2
    assert found.low == pytest.approx(theirs.low, abs=tolerance)
    assert found.high == pytest.approx(theirs.high, abs=tolerance)


def test_skewed_values_get_a_skewed_interval():
    # the bias correction and acceleration, which percentiles alone do not have
    values = np.random.default_rng(3).exponential(size=30)
    found = describe(values)
    plain = stats.bootstrap((values,), np.mean, rng=0, method="percentile").confidence_interval
    assert found.high - found.mean > plain.high - found.mean
    assert found.mean - found.low < found.mean - plain.low


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e-12, 1e9])
@pytest.mark.parametrize("count", [3, 5, 10])
def test_equal_values_have_no_spread(value, count):
    found = describe([value] * count)
    assert (found.mean, found.deviation, found.low, found.high) == (value, 0.0, value, value)
    assert found.note == f"All {count} values are equal, so nothing shows how far they would vary."


def test_one_and_two_values_have_no_interval():
    one, two = describe([0.5]), describe([0.5, 1.5])
    assert one == Description(1, 0.5, None, None, None, one.note)
    assert two == Description(2, 1.0, pytest.approx(math.sqrt(0.5)), None, None, two.note)
    assert one.note == "3 values are the least for an interval, here is 1."
    assert two.note == "3 values are the least for an interval, here are 2."


def test_the_note_ends_at_ten_values():
    values = [float(value) for value in range(10)]
    assert describe(values).note is None
    assert "interval of 9 values is too narrow" in describe(values[:9]).note


def test_a_small_spread_on_a_large_mean_is_not_lost():
    small = [0.0, 1.0, 4.0, 2.0]
    found = describe([1e9 + value / 1024 for value in small])
    unit = describe(small)
    assert found.low == pytest.approx(1e9 + unit.low / 1024, abs=1e-6)
    assert found.high == pytest.approx(1e9 + unit.high / 1024, abs=1e-6)


@given(st.lists(METRICS, min_size=3, max_size=12))
def test_the_interval_lies_within_the_values(values):
    found = describe(values)
    assert min(values) <= found.low <= found.high <= max(values)
    assert min(values) <= found.mean <= max(values)


@given(st.lists(METRICS, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_order_does_not_matter(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert describe(shuffled) == describe(values)


@given(
    st.lists(METRICS, min_size=3, max_size=8), st.integers(-5, 5), st.sampled_from([0.01, 1, 100])
)
def test_shift_and_scale_move_everything_along(values, shift, scale):
    unit, moved = describe(values), describe([scale * (value + shift) for value in values])
    assert moved.deviation == pytest.approx(scale * unit.deviation, abs=1e-9)
    for name in ("mean", "low", "high"):
        expected = scale * (getattr(unit, name) + shift)
        assert getattr(moved, name) == pytest.approx(expected, abs=1e-9 * max(1, abs(expected)))
