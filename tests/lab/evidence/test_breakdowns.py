import pytest

from hiddenkey.lab.evidence.breakdowns import Breakdown, find_breakdowns


def by_seed(*values):
    return dict(enumerate(values))


def test_a_run_far_below_the_median_broke_down():
    found = find_breakdowns(by_seed(1.0, 0.43, 1.0, 0.99, 1.0, 0.43))
    assert found == (Breakdown(1, 0.43, 0.995), Breakdown(5, 0.43, 0.995))


def test_a_fall_of_twenty_points_is_the_least():
    assert find_breakdowns(by_seed(0.9, 0.9, 0.9, 0.71)) == ()
    assert [each.seed for each in find_breakdowns(by_seed(0.9, 0.9, 0.9, 0.69))] == [3]


def test_where_all_runs_scatter_none_is_named():
    # median 0.7, median absolute deviation 0.1, by 1.4826 and 3 a fall of 0.4448
    assert find_breakdowns(by_seed(0.6, 0.7, 0.8, 0.26, 0.8)) == ()
    assert [each.seed for each in find_breakdowns(by_seed(0.6, 0.7, 0.8, 0.25, 0.8))] == [3]


def test_the_unit_may_be_points():
    assert find_breakdowns(by_seed(100, 100, 85), unit=100) == ()
    assert find_breakdowns(by_seed(100, 100, 79), unit=100) == (Breakdown(2, 79, 100),)


@pytest.mark.parametrize("values", [(), (1.0,), (1.0, 0.1)])
def test_two_runs_do_not_say_which_is_the_rule(values):
    assert find_breakdowns(by_seed(*values)) == ()


def test_a_run_above_the_others_did_not_break_down():
    assert find_breakdowns(by_seed(0.4, 0.4, 0.4, 1.0)) == ()
