import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiddenkey.lab.evidence.comparisons import adjust_holm, compare_paired
from hiddenkey.lab.evidence.inference import Estimate, excludes

TWELVE = compare_paired(range(1, 13), [0] * 12)


def of_p(p_value):
    """A comparison of 12 pairs in our favour with this p-value."""
    from scipy import special

    mean = -float(special.stdtrit(11, p_value / 2))
    found = dataclasses.replace(TWELVE, estimate=Estimate(12, mean, 1.0, 1.0))
    assert found.p_value == pytest.approx(p_value)
    return found


def test_four_p_values_by_hand():
    # in order: 0.005 * 4 = 0.02; 0.01 * 3 = 0.03; 0.03 * 2 = 0.06; 0.04 * 1 = 0.04, but not below
    # the one before: 0.06
    found = adjust_holm({"a": of_p(0.01), "b": of_p(0.04), "c": of_p(0.03), "d": of_p(0.005)})
    adjusted = {key: comparison.p_adjusted for key, comparison in found.items()}
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(found) == ["a", "b", "c", "d"]
    verdicts = [comparison.verdict for comparison in found.values()]
    assert verdicts == ["better", "inconclusive", "inconclusive", "better"]
    # d is tested at 0.05 / 4, a at 0.05 / 3, c at 0.05 / 2, where it ends
    confidences = [comparison.confidence for comparison in found.values()]
    assert confidences == pytest.approx([1 - 0.05 / 3, 1 - 0.05 / 2, 1 - 0.05 / 2, 1 - 0.05 / 4])


def test_nothing_exceeds_one():
    found = adjust_holm({1: of_p(0.6), 2: of_p(0.7)})
    assert [comparison.p_adjusted for comparison in found.values()] == [1.0, 1.0]


def test_a_single_comparison_keeps_its_interval():
    found = adjust_holm({"a": TWELVE})["a"]
    assert found == dataclasses.replace(TWELVE, p_adjusted=TWELVE.p_value)


def test_no_comparisons_stay_none():
    assert adjust_holm({}) == {}


def test_the_note_names_the_family():
    found = adjust_holm({key: of_p(0.3) for key in range(3)})[0]
    assert "among 3 comparisons" in found.note


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
        assert p * (1 - 1e-9) <= comparison.p_adjusted
        assert comparison.p_adjusted <= min(1, p * len(p_values) * (1 + 1e-9))
    ordered = sorted(found.values(), key=lambda comparison: comparison.p_value)
    adjusted = [comparison.p_adjusted for comparison in ordered]
    assert adjusted == sorted(adjusted)


@pytest.mark.parametrize("seed", range(200))
def test_intervals_of_random_families_agree_with_corrected_verdicts(seed):
    random = np.random.default_rng(seed)
    family, pairs = random.integers(1, 9), random.integers(2, 9)
    gains = random.choice([0.0, 0.01, 0.03], size=family)
    baseline = random.normal(0.8, 0.01, size=pairs)
    found = adjust_holm(
        {
            key: compare_paired(
                np.round(baseline + random.normal(gain, 0.01, size=pairs), 2), baseline
            )
            for key, gain in enumerate(gains)
        }
    )
    for comparison in found.values():
        differs = comparison.verdict in ("better", "worse")
        assert excludes(comparison.interval) == differs
        assert (comparison.p_adjusted < 0.05) == differs
