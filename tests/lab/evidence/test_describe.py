import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hiddenkey.lab.evidence.comparisons import describe

METRICS = st.integers(0, 200).map(lambda value: value / 200)


@pytest.mark.parametrize("count", [3, 5, 10, 30])
def test_intervals_agree_with_scipy(count):
    values = np.random.default_rng(count).normal(0.8, 0.02, size=count)
    found = describe(values)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-6)
    assert (found.mean, found.deviation) == pytest.approx((values.mean(), values.std(ddof=1)))


def test_steps_of_accuracies_widen_the_interval():
    # steps of 0.02 from 0.81 on: variance 0.0004 / 3 * ... by hand: values 0.81, 0.83, 0.85
    found = describe([0.81, 0.83, 0.85])
    error = math.sqrt((0.0004 + 0.0004 / 12) / 3)
    assert found.high - found.mean == pytest.approx(4.302653 * error, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e-12, 1e9])
@pytest.mark.parametrize("count", [3, 5, 10])
def test_equal_values_have_no_spread(value, count):
    found = describe([value] * count)
    assert (found.mean, found.deviation) == (value, 0.0)
    assert found.low in (None, value)


def test_one_and_two_values_have_no_interval():
    one, two = describe([0.5]), describe([0.5, 1.5])
    assert (one.count, one.mean, one.deviation, one.interval()) == (1, 0.5, None, None)
    assert (two.count, two.mean, two.low, two.high) == (2, 1.0, None, None)
    assert two.deviation == pytest.approx(math.sqrt(0.5))


def test_numpy_numbers_are_numbers():
    assert describe(np.asarray([0.5, 0.6], dtype=np.float32)).mean == pytest.approx(0.55)


def test_a_small_spread_on_a_large_mean_is_not_lost():
    small = [0.0, 1.0, 4.0, 2.0]
    found = describe([1e9 + value for value in small])
    unit = describe(small)
    assert found.low == pytest.approx(1e9 + unit.low, abs=1e-6)
    assert found.high == pytest.approx(1e9 + unit.high, abs=1e-6)


@pytest.mark.parametrize("bad", [None, math.nan, -math.inf])
def test_what_is_no_number_is_refused(bad):
    with pytest.raises(ValueError, match=f"values must be finite numbers, got {bad!r}; leave out"):
        describe([0.5, bad])
    with pytest.raises(ValueError, match="at least one number, got none; finish a run"):
        describe([])


@given(st.lists(METRICS, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_order_does_not_matter(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert describe(shuffled) == describe(values)
