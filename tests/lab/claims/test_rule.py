import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiddenkey.lab.claims.effects import combine, decide, how_many
from hiddenkey.lab.claims.sentences import RULE

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("p_holds", "p_fails", "verdict"),
    [
        (0.024, 0.5, "holds"),
        (0.5, 0.024, "does not hold"),
        (0.01, 0.01, "holds"),
        (0.025, 0.025, "cannot tell"),
        (1.0, 1.0, "cannot tell"),
    ],
)
def test_verdicts(p_holds, p_fails, verdict):
    assert decide(p_holds, p_fails) == verdict


@pytest.mark.parametrize(
    ("need", "questions", "needed"),
    # 0.7 * 10 is 7.000000000000001 in floating point
    [(1.0, 4, 4), (0.8, 6, 5), (0.8, 5, 4), (0.7, 10, 7), (0.5, 3, 2), (0.01, 9, 1), (1.0, 0, 0)],
)
def test_how_many_must_hold(need, questions, needed):
    assert how_many(need, questions) == needed


def test_five_of_six_by_hand():
    # 5 must hold: twice the 5th smallest. 2 failures leave too few: 5 times the 2nd smallest.
    p_holds = [0.5, 0.001, 0.004, 0.01, 0.002, 0.003]
    p_fails = [0.004, 1.0, 0.9, 0.8, 0.006, 0.7]
    assert combine(p_holds, p_fails, 5) == pytest.approx((0.02, 0.03))


def test_all_must_hold():
    # the largest; and the smallest of the failures, by Bonferroni
    assert combine([0.01, 0.02, 0.001], [0.9, 0.002, 0.5], 3) == pytest.approx((0.02, 0.006))


def test_any_may_hold():
    assert combine([0.01, 0.02, 0.001], [0.9, 0.002, 0.5], 1) == pytest.approx((0.003, 0.9))


def test_one_question_is_its_own_rule():
    assert combine([0.3], [0.7], 1) == (0.3, 0.7)


def test_without_questions_nothing_is_known():
    assert combine([], [], 0) == (1.0, 1.0)


@given(P_VALUES, st.floats(0.01, 1))
def test_combined_p_values_are_shares_and_no_order_matters(p_values, need):
    needed = how_many(need, len(p_values))
    found = combine(p_values, p_values, needed)
    assert all(0 <= p <= 1 for p in found)
    assert found == combine(p_values[::-1], sorted(p_values), needed)


def test_to_ask_for_more_of_equal_questions_is_harder_to_refute_and_easier_to_show():
    # six p-values of 0.01: of fewer that must hold, more could be wrong
    found = [combine([0.01] * 6, [0.01] * 6, needed) for needed in range(1, 7)]
    assert found == [pytest.approx((0.01 * (7 - u), 0.01 * u)) for u in range(1, 7)]


def test_the_rule_names_its_numbers():
    for words in ("2.5 %", "95 %", "fewer than 3", "partial conjunction", "cannot tell", "margin"):
        assert words in RULE
