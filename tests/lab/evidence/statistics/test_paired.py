import dataclasses
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from hiddenkey.lab.evidence.statistics import compare_paired

# as metrics are: few digits, so that shifts lose none
METRICS = st.integers(-200, 200).map(lambda value: value / 200)
PAIRS = st.lists(st.tuples(METRICS, METRICS), min_size=1, max_size=8)


def against_zero(differences, **settings):
    return compare_paired(differences, [0.0] * len(differences), **settings)


def test_three_pairs_by_hand():
    # Differences 1, 2, 3: mean 2, standard deviation 1.
    # Sign changes: of 8 sums one is >= 6, so p = 2 * 1/8.
    # Interval: 2 -+ t(0.975, 2) / sqrt(3), with t(0.975, 2) = 4.3027 from the tables.
    # Effect: 2/1 times gamma(1) / (sqrt(1) * gamma(1/2)) = 1 / sqrt(pi).
    found = compare_paired([3.0, 1.0, 4.0], [2.0, -1.0, 1.0])
    assert (found.count, found.difference, found.p_value) == (3, 2.0, 0.25)
    assert (found.wins, found.ties, found.losses) == (3, 0, 0)
    assert found.low == pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-4)
    assert found.high == pytest.approx(2 + 4.3027 / math.sqrt(3), abs=1e-4)
    assert found.effect_size == pytest.approx(2 / math.sqrt(math.pi))
    assert found.test == "exact paired permutation test"
    assert found.p_adjusted is None


@pytest.mark.parametrize(
    ("differences", "p_value"),
    [
        # sizes 1 to 4 sum to 10; 8 or more: none changed (10), the 1 changed (8)
        ([3, -1, 2, 4], Fraction(2 * 2, 16)),
        # sum 4; 4 or more: none negative (6), or one of six (4)
        ([1, 1, 1, 1, 1, -1], Fraction(2 * 7, 64)),
        # the zero changes nothing: sum 2 in 2 of 8
        ([0, 1, 1], Fraction(2 * 2, 8)),
        # sum 0: half of the sums or more on either side, and p is at most 1
        ([1, -1], Fraction(1)),
        ([0, 0, 0], Fraction(1)),
        ([5], Fraction(1)),
        ([2, 2], Fraction(2, 4)),
        ([1] * 6, Fraction(2, 64)),
        ([1] * 11, Fraction(2, 2048)),
    ],
)
def test_p_values_by_hand(differences, p_value):
    assert against_zero(differences).p_value == p_value


@given(PAIRS)
def test_p_is_the_share_of_all_sign_changes(pairs):
    # in whole numbers, so exact
    differences = [round(200 * ours) - round(200 * baseline) for ours, baseline in pairs]
    sums = [
        sum(sign * value for sign, value in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    tail = sum(value >= abs(sum(differences)) for value in sums)
    found = compare_paired(*zip(*pairs, strict=True))
    assert found.p_value == min(Fraction(1), Fraction(2 * tail, len(sums)))


@pytest.mark.parametrize("count", [5, 8, 20])
def test_simulated_pairs_agree_with_scipy(count):
    random = np.random.default_rng(count)
    baseline = random.normal(0.8, 0.02, size=count)
    ours = baseline + random.normal(0.005, 0.01, size=count)
    found = compare_paired(ours, baseline)
    theirs = stats.ttest_rel(ours, baseline)
    interval = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6)
    deviation = np.std(ours - baseline, ddof=1)
    # Hedges's approximate factor
    expected = (1 - 3 / (4 * (count - 1) - 1)) * np.mean(ours - baseline) / deviation
    assert found.effect_size == pytest.approx(expected, rel=0.01)
    permuted = stats.permutation_test(
        (ours, baseline),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        n_resamples=40_000,
        rng=1,
    )
    # the same where all are tried, otherwise two random estimates
    tolerance = 1e-12 if count <= 11 else 4 * math.sqrt(permuted.pvalue / 2 / 4095) + 2 / 4095
    assert found.p_value == pytest.approx(permuted.pvalue, abs=tolerance)


def test_more_pairs_are_tested_by_random_sign_changes():
    found = against_zero([1.0] * 13)
    assert found.test == "paired permutation test (4,095 random sign changes)"
    # of 8,192 sums one is as large, so hardly any of the draws, beside the data themselves
    assert found.p_value == pytest.approx(2 / 8192, abs=2e-3)
    assert found.p_value >= found.smallest_p == 2 / 4096
    assert found == against_zero([1.0] * 13)


@pytest.mark.parametrize(
    ("larger_is_better", "outcome", "verdict"),
    [(True, (6, 1, 0), "better"), (False, (0, 1, 6), "worse")],
)
def test_the_direction_turns_wins_and_verdict_alone(larger_is_better, outcome, verdict):
    found = against_zero([0, 1, 2, 3, 1, 2, 3], larger_is_better=larger_is_better)
    assert (found.wins, found.ties, found.losses) == outcome
    assert found.verdict == verdict
    assert found.difference == pytest.approx(12 / 7)
    assert found.effect_size > 0


@pytest.mark.parametrize("count", range(1, 6))
def test_up_to_five_pairs_are_weak_evidence_whatever_they_show(count):
    found = against_zero([1.0 + value / 10 for value in range(count)])
    assert found.verdict == "weak evidence"
    assert found.p_value == found.smallest_p == 2 / 2**count
    assert "at least 6 pairs are needed to reach 0.05" in found.note


def test_the_note_says_why_five_pairs_are_weak():
    assert against_zero([1, 2, 3, 4, 5]).note == (
        "5 pairs are too few: even if every pair agreed, p would be 0.0625; at least 6 pairs are"
        " needed to reach 0.05."
    )
    assert against_zero([1]).note.startswith("1 pair is too few: even if every pair agreed, p")


def test_six_pairs_can_show_a_difference_and_need_not():
    assert against_zero([1, 2, 3, 4, 5, 6]).verdict == "better"
    assert against_zero([-1, -2, -3, -4, -5, -6]).verdict == "worse"
    assert against_zero([-1, 2, 3, 4, 5, 6]).verdict == "no clear difference"  # p = 4 / 64


def test_another_level_needs_other_numbers_of_pairs():
    assert against_zero([1, 2, 3, 4, 5], level=0.1).verdict == "better"
    strict = against_zero([1, 2, 3, 4, 5, 6], level=0.01)
    assert strict.verdict == "weak evidence"
    assert "at least 8 pairs are needed to reach 0.01" in strict.note


@pytest.mark.parametrize("count", [2, 3, 6, 20])
@pytest.mark.parametrize(("ours", "baseline"), [(0.9, 0.8), (0.5, 0.5), (0.0, 0.0), (-0.1, 0.3)])
def test_equal_differences_are_a_point_and_are_said_to_be(count, ours, baseline):
    found = compare_paired([ours] * count, [baseline] * count)
    assert found.low == found.high == found.difference
    assert found.difference == pytest.approx(ours - baseline, rel=1e-9)
    assert found.effect_size is None
    assert f"All {count} differences are equal" in found.note


def test_differences_equal_up_to_rounding_do_not_vary():
    # 0.9 - 0.8, 0.8 - 0.7 and 0.4 - 0.3 differ in their last bits
    found = compare_paired([0.9, 0.8, 0.4], [0.8, 0.7, 0.3])
    assert found.effect_size is None
    assert found.low == found.high
    tied = compare_paired([0.1 + 0.2], [0.3])
    assert (tied.ties, tied.difference) == (1, 0.0)


def test_sums_equal_up_to_rounding_tie():
    # The sum is 0.001. With +0.001, the others may sum to 0.6, 0.4, 0.2, or 0 in two ways; with
    # -0.001, to 0.6, 0.4 or 0.2: 8 of 16 sums are as large, so p = 1. In floats 0.1 + 0.2 - 0.3 is
    # not 0, and the second way is lost.
    assert 0.1 + 0.2 - 0.3 > 0
    assert against_zero([0.1, 0.2, -0.3, 0.001]).p_value == 1
    # A sum of 0.005 + 0.435 must not be rounded part by part either: it is as large as 0.44, or
    # larger, for 5 of 8 signs, -1 being one of them: p = 2 * 5 / 16.
    assert against_zero([-0.005, -0.435, 0.44, -1.0]).p_value == 10 / 16


def test_one_pair_has_a_difference_alone():
    found = compare_paired([0.5], [0.25])
    assert (found.difference, found.low, found.high) == (0.25, None, None)
    assert (found.effect_size, found.p_value, found.wins) == (None, 1.0, 1)


def test_two_pairs_have_a_wide_interval_and_no_effect_size():
    # differences 1 and 2: mean 1.5, standard error 0.5, t(0.975, 1) = 12.706
    found = against_zero([1, 2])
    assert (found.low, found.high) == pytest.approx((1.5 - 6.353, 1.5 + 6.353), abs=1e-3)
    assert found.effect_size is None


def test_an_outlier_that_splits_test_and_interval_is_told():
    # all on one side, so p = 2 / 64; but the outlier makes the interval reach below zero
    found = against_zero([1, 1, 1, 1, 1, 30])
    assert found.p_value == 2 / 64
    assert found.low < 0
    assert found.note.startswith("Test and interval disagree")
    assert against_zero([1, 2, 3, 2, 1, 3]).note is None


def test_unequal_numbers_of_values_are_refused():
    with pytest.raises(ValueError, match="got 2 of ours and 1 of the baseline; keep the seeds"):
        compare_paired([1, 2], [1])


@given(PAIRS)
@example([(0.0, 0.0)])
@example([(float(i % 5) / 8, 0.25 * (i % 3)) for i in range(15)])
def test_exchanging_the_two_turns_the_signs(pairs):
    ours, baseline = zip(*pairs, strict=True)
    one, other = compare_paired(ours, baseline), compare_paired(baseline, ours)
    turned = {"better": "worse", "worse": "better"}
    assert other == dataclasses.replace(
        one,
        difference=-one.difference,
        low=None if one.high is None else -one.high,
        high=None if one.low is None else -one.low,
        effect_size=None if one.effect_size is None else -one.effect_size,
        wins=one.losses,
        losses=one.wins,
        verdict=turned.get(one.verdict, one.verdict),
    )


@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_seeds_does_not_matter(pairs, random):
    shuffled = list(pairs)
    random.shuffle(shuffled)
    one = compare_paired(*zip(*pairs, strict=True))
    assert compare_paired(*zip(*shuffled, strict=True)) == one


def test_the_order_of_many_seeds_does_not_matter():
    pairs = np.random.default_rng(5).normal(size=(2, 20))
    assert compare_paired(*pairs) == compare_paired(*pairs[:, ::-1])


@given(PAIRS, st.integers(-3, 3))
def test_shifting_both_changes_nothing(pairs, shift):
    ours, baseline = zip(*pairs, strict=True)
    one = compare_paired(ours, baseline)
    moved = compare_paired([value + shift for value in ours], [value + shift for value in baseline])
    for name in ("count", "p_value", "wins", "ties", "losses", "verdict", "note"):
        assert getattr(moved, name) == getattr(one, name)
    for name in ("difference", "low", "high", "effect_size"):
        before, after = getattr(one, name), getattr(moved, name)
        assert after == (None if before is None else pytest.approx(before, rel=1e-5, abs=1e-7))


@given(PAIRS, st.sampled_from([2.0**-40, 2.0**-3, 2.0**40]))
def test_the_scale_changes_no_judgement(pairs, scale):
    ours, baseline = zip(*pairs, strict=True)
    one = compare_paired(ours, baseline)
    scaled = compare_paired(
        [scale * value for value in ours], [scale * value for value in baseline]
    )
    assert scaled == dataclasses.replace(
        one,
        difference=scale * one.difference,
        low=None if one.low is None else scale * one.low,
        high=None if one.high is None else scale * one.high,
    )
