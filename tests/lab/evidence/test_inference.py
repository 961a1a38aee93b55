import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hiddenkey.lab.evidence.inference import (
    Estimate,
    Ratio,
    common_step,
    differences,
    excludes,
)

METRICS = st.integers(-200, 200).map(lambda value: value / 200)
EFFECTS = st.lists(METRICS, min_size=3, max_size=8)


def test_three_values_by_hand():
    # mean 2, variance 1 and, for the step of 1, 1/12; t(0.975, 2) = 4.3027 from the tables
    found = Estimate.of([1.0, 2.0, 3.0])
    assert (found.count, found.mean, found.deviation) == (3, 2.0, 1.0)
    assert found.error == pytest.approx(math.sqrt(13 / 12 / 3))
    low, high = found.interval()
    assert (low, high) == pytest.approx((2 - 4.3027 * found.error, 2 + 4.3027 * found.error), 1e-4)


@pytest.mark.parametrize("count", [3, 5, 8, 20])
def test_values_without_steps_agree_with_scipy(count):
    values = np.random.default_rng(count).normal(0.4, 1.0, size=count)
    found, theirs = Estimate.of(values), stats.ttest_1samp(values, 0)
    assert found.interval(0.9) == pytest.approx(theirs.confidence_interval(0.9), rel=1e-6)
    assert found.differs() == pytest.approx(theirs.pvalue, rel=1e-6)
    for name, side in (("above", "greater"), ("below", "less")):
        expected = stats.ttest_1samp(values, 0.3, alternative=side).pvalue
        assert getattr(found, name)(0.3) == pytest.approx(expected, rel=1e-6)


@given(EFFECTS, st.floats(0.5, 0.999))
def test_interval_and_p_value_are_one_procedure(values, confidence):
    found = Estimate.of(values)
    interval = found.interval(confidence)
    for point in (-1.0, -0.1, 0.0, 0.03, 1.0):
        p = found.differs(point)
        if abs(p - (1 - confidence)) > 1e-9:
            assert excludes(interval, point) == (p < 1 - confidence)


@given(EFFECTS, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_the_sign_only_turns(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    one, turned = Estimate.of(values), Estimate.of([0.0 - value for value in values])
    assert Estimate.of(shuffled) == one
    assert (turned.mean, turned.error) == (-one.mean, one.error)
    assert turned.below(-0.1) == one.above(0.1)


@pytest.mark.parametrize("count", range(3, 12))
def test_equal_values_have_the_p_value_of_the_sign_test(count):
    found = Estimate.of([0.02] * count)
    assert found.differs() == pytest.approx(2.0 ** (1 - count))
    assert excludes(found.interval()) == (count >= 6)
    low, high = found.interval()
    assert low < 0.02 < high


def test_equal_values_with_a_known_step_are_judged_by_it():
    # standard error 0.01 / sqrt(12 * 5)
    found = Estimate.of([0.02] * 5, resolution=0.01)
    assert found.error == pytest.approx(0.01 / math.sqrt(60))
    assert excludes(found.interval())


@pytest.mark.parametrize(("count", "interval"), [(3, None), (5, None), (6, (0.0, 0.0))])
def test_values_that_are_all_zero(count, interval):
    found = Estimate.of([0.0] * count)
    assert (found.error, found.differs(), found.interval()) == (0.0, 1.0, interval)
    assert found.within(-0.1, 0.1) == 2.0**-count


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 1.1]])
def test_fewer_than_three_values_conclude_nothing(values):
    found = Estimate.of(values)
    assert found.interval() is None
    assert found.above(-9) == found.below(9) == found.differs() == 1.0
    assert found.count == len(values)


def test_two_sided_questions_and_infinite_ends():
    found = Estimate.of([1.0, 2.0, 3.0, 2.5])
    assert found.within(0, 9) == max(found.above(0), found.below(9))
    assert found.outside(0, 1) == min(1, 2 * min(found.below(0), found.above(1)))
    assert found.outside(-math.inf, 1) == found.above(1)
    assert found.outside(-math.inf, math.inf) == 1.0


@pytest.mark.parametrize("examples", [50, 100, 300, 1821])
def test_steps_are_read_off_the_values(examples):
    counts = [3, -5, 0, 7, 12, -11]
    assert common_step([count / examples for count in counts]) == pytest.approx(1 / examples)
    assert common_step([2 * count / examples for count in counts]) == pytest.approx(2 / examples)


def test_values_without_steps_have_next_to_none():
    values = np.random.default_rng(0).normal(size=6)
    assert common_step(values) < 1e-4
    assert common_step([0.0, 0.0]) == 0.0


@given(st.lists(st.tuples(METRICS, METRICS), min_size=3, max_size=8))
def test_differences_are_free_of_rounding(pairs):
    found = differences(*zip(*pairs, strict=True))
    exact = [(round(200 * ours) - round(200 * baseline)) / 200 for ours, baseline in pairs]
    assert found == exact


def test_differences_that_only_rounding_sets_apart_are_equal():
    assert differences([0.9, 0.8, 0.4], [0.8, 0.7, 0.3]) == [0.1, 0.1, 0.1]
    assert differences([0.1 + 0.2], [0.3]) == [0.0]
    assert differences([1e300, 0.0], [0.0, 1e300]) == [1e300, -1e300]
    assert differences([0.0], [0.0]) == [0.0]


@pytest.mark.parametrize("size", [1e-300, 1e-6, 1.0, 1e6, 1e300])
def test_a_difference_of_nine_digits_is_kept(size):
    assert differences([size * (1 + 1e-9)], [size])[0] == pytest.approx(1e-9 * size, rel=0.01)


def test_unequal_numbers_and_what_is_no_number_are_refused():
    with pytest.raises(ValueError, match="got 2 of ours and 1 of the baseline; keep the seeds"):
        differences([1, 2], [1])
    with pytest.raises(ValueError, match="baseline must be finite numbers, got None; leave out"):
        differences([1.0], [None])
    with pytest.raises(ValueError, match="at least one number, got none; finish a run"):
        differences([], [])


def test_a_ratio_is_a_geometric_mean_and_turns_over():
    ours, base = [1.1, 2.3, 3.2, 0.9], [1.0, 2.0, 3.0, 1.0]
    one, turned = Ratio.of(ours, base), Ratio.of(base, ours)
    ratios = [a / b for a, b in zip(ours, base, strict=True)]
    assert one.value == pytest.approx(statistics.geometric_mean(ratios))
    low, high = one.interval()
    assert turned.interval() == pytest.approx((1 / high, 1 / low))
    assert low < 1 < high
    assert not one.differs
    assert Ratio.of([1.49, 1.5, 1.51], [1.0] * 3).differs
    assert Ratio.of([1.5], [1.0]).interval() is None


def test_a_ratio_of_what_is_not_positive_is_refused():
    with pytest.raises(ValueError, match=r"a ratio is of positive numbers, got 0\.0; leave that"):
        Ratio.of([1.0, 0.0], [1.0, 1.0])


@pytest.mark.parametrize("size", [1e-300, 1e-3, 1e300])
def test_the_size_of_values_is_no_matter(size):
    plain = Estimate.of([1.0, 1.25, 2.0])
    found = Estimate.of([size, 1.25 * size, 2 * size])
    assert found.deviation == pytest.approx(size * plain.deviation)
    assert found.error == pytest.approx(size * plain.error)
