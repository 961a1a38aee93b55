import dataclasses
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from hiddenkey.lab.evidence.comparisons import adjust_holm, compare_paired
from hiddenkey.lab.evidence.inference import excludes

# as metrics are: few digits, so that shifts lose none
METRICS = st.integers(-200, 200).map(lambda value: value / 200)
PAIRS = st.lists(st.tuples(METRICS, METRICS), min_size=1, max_size=8)


def against_zero(differences, **settings):
    return compare_paired(differences, [0.0] * len(differences), **settings)


def test_three_pairs_by_hand():
    # Differences 1, 2, 3: mean 2, standard deviation 1, whose step of 1 adds a variance of 1/12.
    # Interval: 2 -+ t(0.975, 2) * error, with t(0.975, 2) = 4.3027 from the tables.
    # Effect: 2/1 times gamma(1) / (sqrt(1) * gamma(1/2)) = 1 / sqrt(pi).
    found = compare_paired([3.0, 1.0, 4.0], [2.0, -1.0, 1.0])
    error = math.sqrt(13 / 12 / 3)
    assert (found.count, found.difference) == (3, 2.0)
    assert (found.wins, found.ties, found.losses) == (3, 0, 0)
    assert found.low == pytest.approx(2 - 4.3027 * error, abs=1e-4)
    assert found.high == pytest.approx(2 + 4.3027 * error, abs=1e-4)
    assert found.p_value == pytest.approx(2 * stats.t.sf(2 / error, 2))
    assert found.effect_size == pytest.approx(2 / math.sqrt(math.pi))
    assert (found.p_adjusted, found.confidence) == (None, 0.95)


@pytest.mark.parametrize("count", [5, 8, 20])
def test_simulated_pairs_agree_with_scipy(count):
    random = np.random.default_rng(count)
    baseline = random.normal(0.8, 0.02, size=count)
    ours = baseline + random.normal(0.005, 0.01, size=count)
    found = compare_paired(ours, baseline)
    theirs = stats.ttest_rel(ours, baseline)
    interval = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-6)
    deviation = np.std(ours - baseline, ddof=1)
    # Hedges's approximate factor
    expected = (1 - 3 / (4 * (count - 1) - 1)) * np.mean(ours - baseline) / deviation
    assert found.effect_size == pytest.approx(expected, rel=0.01)


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


@pytest.mark.parametrize("count", [3, 4, 5])
def test_few_pairs_can_show_a_difference(count):
    found = against_zero([0.02 + 0.001 * value for value in range(count)])
    assert found.verdict == "better"
    assert excludes(found.interval)


def test_the_five_runs_that_two_rules_judged_differently_are_better():
    assert against_zero([0.019, 0.0195, 0.02, 0.0205, 0.021]).verdict == "better"


@pytest.mark.parametrize("differences", [[0.5], [0.5, 0.6]])
def test_fewer_than_three_pairs_conclude_nothing(differences):
    found = against_zero(differences)
    assert (found.verdict, found.interval, found.p_value) == ("inconclusive", None, 1.0)
    assert "3 pairs are the fewest" in found.note
    assert found.effect_size is None
    assert found.difference == pytest.approx(sum(differences) / len(differences))


@pytest.mark.parametrize(
    ("spread", "margin", "verdict"),
    [
        (0.001, None, "no clear difference"),
        (0.02, None, "inconclusive"),
        (0.02, 0.1, "no clear difference"),
        (0.001, 0.0001, "inconclusive"),
    ],
)
def test_the_margin_separates_no_clear_difference_from_inconclusive(spread, margin, verdict):
    found = against_zero([-spread, spread, -spread, spread, 0.0], margin=margin)
    assert not excludes(found.interval)
    assert found.verdict == verdict
    inside = -found.margin < found.low and found.high < found.margin
    assert inside == (verdict == "no clear difference")


@pytest.mark.parametrize(
    ("level", "margin"), [(0.5, 0.01), (-0.8, 0.01), (60.0, 0.6), (-2.0, 0.02)]
)
def test_the_margin_is_a_percentage_point_or_a_hundredth(level, margin):
    values = [level - 0.1, level, level + 0.1]
    assert compare_paired(values, values).margin == pytest.approx(margin)


def test_inconclusive_says_how_many_seeds_would_do():
    found = against_zero([-0.02, 0.02, -0.01, 0.03, 0.0])
    assert found.verdict == "inconclusive"
    assert "Underpowered with 5 seeds" in found.note
    assert "about 70 seeds would decide" in found.note
    assert found.pairs_to_decide == 70


def test_a_difference_below_the_margin_is_said_to_be_small():
    found = against_zero([0.002, 0.0021, 0.0019, 0.002, 0.0022])
    assert found.verdict == "better"
    assert "smaller than 0.01" in found.note


@pytest.mark.parametrize("count", [3, 6, 20])
@pytest.mark.parametrize(("ours", "baseline"), [(0.9, 0.8), (0.5, 0.5), (0.0, 0.0), (-0.1, 0.3)])
def test_equal_differences_are_said_to_be_and_are_no_infinite_evidence(count, ours, baseline):
    found = compare_paired([ours] * count, [baseline] * count)
    assert found.difference == pytest.approx(ours - baseline, rel=1e-9)
    assert found.effect_size is None
    assert f"All {count} differences are equal" in found.note
    assert found.p_value >= 2.0 ** (1 - count) * (1 - 1e-9)
    assert (found.verdict in ("better", "worse")) == (count >= 6 and ours != baseline)


def test_differences_equal_up_to_rounding_do_not_vary():
    # 0.9 - 0.8, 0.8 - 0.7 and 0.4 - 0.3 differ in their last bits
    found = compare_paired([0.9, 0.8, 0.4], [0.8, 0.7, 0.3])
    assert found.effect_size is None
    tied = compare_paired([0.1 + 0.2], [0.3])
    assert (tied.ties, tied.difference) == (1, 0.0)


def test_an_outlier_on_the_right_side_widens_the_interval():
    found = against_zero([1, 1, 1, 1, 1, 30])
    assert found.low < 0
    assert found.verdict == "inconclusive"


def test_unequal_numbers_of_values_are_refused():
    with pytest.raises(ValueError, match="got 2 of ours and 1 of the baseline; keep the seeds"):
        compare_paired([1, 2], [1])


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, "0.5"])
def test_what_is_no_number_is_refused(bad):
    with pytest.raises(ValueError, match=f"ours must be finite numbers, got {bad!r}; leave out"):
        compare_paired([0.5, bad], [0.5, 0.6])


@given(PAIRS)
@example([(0.0, 0.0)])
@example([(float(i % 5) / 8, 0.25 * (i % 3)) for i in range(15)])
def test_exchanging_the_two_turns_the_signs(pairs):
    ours, baseline = zip(*pairs, strict=True)
    one, other = compare_paired(ours, baseline), compare_paired(baseline, ours)
    turned = {"better": "worse", "worse": "better"}
    assert other == dataclasses.replace(
        one,
        estimate=dataclasses.replace(one.estimate, mean=0.0 - one.difference),
        wins=one.losses,
        losses=one.wins,
    )
    assert other.verdict == turned.get(one.verdict, one.verdict)
    assert other.effect_size == (None if one.effect_size is None else 0.0 - one.effect_size)


@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_seeds_does_not_matter(pairs, random):
    shuffled = list(pairs)
    random.shuffle(shuffled)
    one = compare_paired(*zip(*pairs, strict=True))
    assert compare_paired(*zip(*shuffled, strict=True)) == one


@given(PAIRS, st.integers(-3, 3))
def test_shifting_both_changes_nothing(pairs, shift):
    ours, baseline = zip(*pairs, strict=True)
    one = compare_paired(ours, baseline, margin=0.01)
    moved = compare_paired(
        [value + shift for value in ours], [value + shift for value in baseline], margin=0.01
    )
    for name in ("count", "wins", "ties", "losses"):
        assert getattr(moved, name) == getattr(one, name)
    for name in ("difference", "low", "high", "effect_size", "p_value"):
        before, after = getattr(one, name), getattr(moved, name)
        assert after == (None if before is None else pytest.approx(before, rel=1e-5, abs=1e-7))


@given(PAIRS, st.sampled_from([2.0**-40, 2.0**-3, 2.0**40]))
def test_the_scale_changes_no_judgement(pairs, scale):
    ours, baseline = zip(*pairs, strict=True)
    one = compare_paired(ours, baseline, margin=0.01)
    scaled = compare_paired(
        [scale * value for value in ours],
        [scale * value for value in baseline],
        margin=0.01 * scale,
    )
    assert (scaled.wins, scaled.ties, scaled.losses) == (one.wins, one.ties, one.losses)
    assert scaled.p_value == pytest.approx(one.p_value, rel=1e-5, abs=1e-9)
    assert scaled.difference == pytest.approx(scale * one.difference, rel=1e-6, abs=1e-9 * scale)


@pytest.mark.parametrize(("count", "family", "enough"), [(3, 1, 6), (5, 1, 6), (3, 4, 8)])
def test_equal_differences_decide_where_the_sign_test_does(count, family, enough):
    """Their scatter, which any other number of pairs would rest on, is not known."""
    wild = compare_paired([0.9, 0.5, 0.7], [0.1, 0.6, 0.5])
    found = compare_paired([0.82] * count, [0.8] * count)
    corrected = adjust_holm({0: found, **dict.fromkeys(range(1, family), wild)})
    assert min(each.pairs_to_decide for each in (found, corrected[0])) == 6
    assert corrected[0].pairs_to_decide == enough
    equal = compare_paired([0.82] * enough, [0.8] * enough)
    assert adjust_holm({0: equal, **dict.fromkeys(range(1, family), wild)})[0].verdict == "better"


def test_equal_pairs_on_few_examples_could_not_show_the_margin():
    """On two examples accuracy moves by halves: six ties say nothing of a point."""
    equal = [0.5] * 6
    assert compare_paired(equal, equal, step=1 / 300).verdict == "no clear difference"
    found = compare_paired(equal, equal, step=1 / 2)
    assert (found.verdict, found.is_coarse, found.pairs_to_decide) == ("inconclusive", True, None)
    assert "the metric moves in steps of 0.5, so that no difference of 0.01 could" in found.note


def test_few_examples_hide_nothing_where_pairs_differ():
    found = compare_paired([0.5, 1.0, 1.0, 1.0, 1.0, 1.0], [0.0] * 6, step=1 / 2)
    assert (found.verdict, found.is_coarse) == ("better", False)
