import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiddenkey.lab.evidence.statistics import adjust_holm, compare_paired

OF_PAIRS = {pairs: compare_paired(range(1, pairs + 1), [0] * pairs) for pairs in (6, 12, 20)}
TWELVE = OF_PAIRS[12]


def of_p(p_value, pairs=12):
    """A comparison in our favour with this p-value."""
    return dataclasses.replace(OF_PAIRS[pairs], p_value=p_value)


def test_four_p_values_by_hand():
    # in order: 0.005 * 4 = 0.02; 0.01 * 3 = 0.03; 0.03 * 2 = 0.06; 0.04 * 1 = 0.04, but not below
    # the one before: 0.06
    found = adjust_holm({"a": of_p(0.01), "b": of_p(0.04), "c": of_p(0.03), "d": of_p(0.005)})
    adjusted = {key: comparison.p_adjusted for key, comparison in found.items()}
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(found) == ["a", "b", "c", "d"]
    verdicts = [comparison.verdict for comparison in found.values()]
    assert verdicts == ["better", "no clear difference", "no clear difference", "better"]
    assert [comparison.p_value for comparison in found.values()] == [0.01, 0.04, 0.03, 0.005]


def test_nothing_exceeds_one():
    found = adjust_holm({1: of_p(0.6), 2: of_p(0.7)})
    assert [comparison.p_adjusted for comparison in found.values()] == [1.0, 1.0]


def test_a_single_comparison_keeps_its_p():
    assert adjust_holm({"a": TWELVE})["a"] == dataclasses.replace(TWELVE, p_adjusted=TWELVE.p_value)


def test_no_comparisons_stay_none():
    assert adjust_holm({}) == {}


def test_pairs_enough_for_one_comparison_may_be_too_few_for_three():
    # 6 pairs: p is at least 2 / 64, after the correction over 3 at least 0.09375. 7 pairs: 2 / 128
    # times 3 is 0.046875.
    six = compare_paired([1, 2, 3, 4, 5, 6], [0] * 6)
    assert six.verdict == "better"
    found = adjust_holm(dict.fromkeys("abc", six))["b"]
    assert found.p_adjusted == 0.09375
    assert found.verdict == "weak evidence"
    assert found.note == (
        "6 pairs are too few for 3 comparisons together: even if every pair agreed, p after Holm's"
        " correction would be 0.0938; at least 7 pairs are needed to reach 0.05."
    )
    seven = compare_paired([1, 2, 3, 4, 5, 6, 7], [0] * 7)
    assert {item.verdict for item in adjust_holm(dict.fromkeys("abc", seven)).values()} == {
        "better"
    }


def test_six_pairs_beside_a_longer_study_can_still_reach_the_level():
    # the longer study may be rejected first, which leaves the factor 1 for the shorter
    found = adjust_holm({"long": TWELVE, "short": of_p(0.5, pairs=6)})
    assert found["short"].verdict == "no clear difference"


def test_too_many_comparisons_for_any_number_of_pairs():
    found = adjust_holm({key: of_p(0.5, pairs=20) for key in range(300)})[0]
    assert found.verdict == "weak evidence"
    assert "fewer comparisons are needed to reach 0.05" in found.note


def test_the_direction_of_losses_is_kept():
    lower = compare_paired([0] * 8, range(1, 9), larger_is_better=False)
    assert adjust_holm({"a": lower})["a"].verdict == "better"


def test_the_correction_may_be_renewed():
    once = adjust_holm({"a": of_p(0.01), "b": of_p(0.04)})
    assert adjust_holm(once) == once


@given(st.lists(st.floats(0.0005, 1), min_size=1, max_size=8))
def test_holm_lies_between_none_and_bonferroni_and_keeps_the_order(p_values):
    found = adjust_holm({key: of_p(p) for key, p in enumerate(p_values)})
    for p, comparison in zip(p_values, found.values(), strict=True):
        assert p <= comparison.p_adjusted <= min(1, p * len(p_values))
    ordered = sorted(found.values(), key=lambda comparison: comparison.p_value)
    adjusted = [comparison.p_adjusted for comparison in ordered]
    assert adjusted == sorted(adjusted)


def test_a_level_is_a_share():
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got 2; "):
        adjust_holm({"a": TWELVE}, level=2)
