import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hiddenkey.lab.evidence.ranks import critical_difference, rank_methods

TABLES = st.integers(3, 6).flatmap(
    lambda methods: st.lists(
        st.lists(st.integers(0, 5), min_size=methods, max_size=methods), min_size=2, max_size=12
    )
)


def ranking(rows):
    """Rank methods a, b, c, ... by rows of scores, one row per task."""
    return rank_methods(dict(zip("abcdefghij", zip(*rows, strict=True), strict=False)))


def test_three_methods_on_three_tasks_by_hand():
    # ranks by task: b 1, a 2, c 3; b 1, a 2, c 3; a 1, b 2, c 3
    # averages: a 5/3, b 4/3, c 3. Friedman: 12 * 3 / (3 * 4) * (25/9 + 16/9 + 9 - 3 * 16 / 4)
    #   = 3 * 14/9 = 14/3; two degrees of freedom: p = exp(-7/3) = 0.0970
    found = ranking([[0.8, 0.9, 0.1], [0.5, 0.6, 0.4], [0.7, 0.6, 0.2]])
    assert found.ranks == pytest.approx({"b": 4 / 3, "a": 5 / 3, "c": 3})
    assert list(found.ranks) == ["b", "a", "c"]
    assert found.p_value == pytest.approx(math.exp(-7 / 3))
    assert found.cliques == (("b", "a", "c"),)
    assert found.tasks == 3
    assert "finds no difference between the methods (p = 0.097)" in found.note


def test_ties_share_the_mean_of_their_places():
    # task 1: a and b share places 1 and 2; task 2: all share 1, 2 and 3
    assert ranking([[2, 2, 1], [5, 5, 5]]).ranks == {"a": 1.75, "b": 1.75, "c": 2.5}


def test_scores_equal_up_to_rounding_tie():
    assert ranking([[0.1 + 0.2, 0.3, 0.2], [9e9, 1e9, 0.0]]).ranks == {"a": 1.25, "b": 1.75, "c": 3}


def test_the_quantiles_are_the_published_ones():
    # Demsar 2006, table 5 (a), level 0.05, for 2 to 10 methods
    published = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    found = [
        critical_difference(methods, 1) / math.sqrt(methods * (methods + 1) / 6)
        for methods in range(2, 11)
    ]
    assert found == pytest.approx(published, abs=1.1e-3)


def test_the_critical_difference_of_a_published_study():
    # Demsar 2006, section 3.2.2: 4 classifiers on 14 sets, 1.25 at level 0.05 and 1.12 at 0.10
    rows = [[1, 2, 3, 4]] * 14
    assert ranking(rows).critical_difference == pytest.approx(1.25, abs=0.005)
    assert critical_difference(4, 14, 0.10) == pytest.approx(1.12, abs=0.015)


def test_neighbours_within_the_critical_difference_are_cliques():
    # average ranks 1, 2, 3, 4; with 20 tasks 2.569 * sqrt(20 / 120) = 1.05, with 40 tasks 0.74
    assert ranking([[4, 3, 2, 1]] * 20).cliques == (("a", "b"), ("b", "c"), ("c", "d"))
    assert ranking([[4, 3, 2, 1]] * 40).cliques == ()
    # 12 tasks: 2.569 * sqrt(20 / 72) = 1.35; a and b, c and d exchanged on half of the tasks have
    # ranks 1.5, 1.5, 3.5, 3.5
    assert ranking([[4, 3, 2, 1], [3, 4, 1, 2]] * 6).cliques == (("a", "b"), ("c", "d"))


def test_pairs_are_not_looked_at_where_friedman_finds_nothing():
    # 7 methods on 10 tasks: a is first and g last, the others take turns, except that a and g
    # exchange places on two tasks and a is fourth on one. Ranks: a 2.5, g 5.8, which are more
    # apart than 2.949 * sqrt(56 / 60) = 2.85. But Friedman's p is above 0.05.
    places = [[1, *np.roll([2, 3, 4, 5, 6], task), 7] for task in range(10)]
    places[0] = [4, 2, 3, 1, 5, 6, 7]
    places[8:] = [[row[-1], *row[1:-1], row[0]] for row in places[8:]]
    found = ranking([[-place for place in row] for row in places])
    assert found.ranks["a"] == 2.5
    assert found.ranks["g"] == 5.8
    assert found.critical_difference == pytest.approx(2.85, abs=0.005)
    assert 0.05 < found.p_value < 0.1
    assert found.cliques == (tuple(found.ranks),)


@given(TABLES)
def test_cliques_are_the_largest_groups_within_the_critical_difference(rows):
    found = ranking(rows)
    if found.p_value > 0.05:
        assert found.cliques == (tuple(found.ranks),)
        return
    near = [
        {*group}
        for size in range(2, len(found.ranks) + 1)
        for group in itertools.combinations(found.ranks, size)
        if max(map(found.ranks.get, group)) - min(map(found.ranks.get, group))
        < found.critical_difference
    ]
    largest = [group for group in near if not any(group < other for other in near)]
    assert sorted(map(sorted, largest)) == sorted(map(sorted, found.cliques))


@given(TABLES)
def test_friedman_is_scipys_and_ranks_sum_up(rows):
    found = ranking(rows)
    assert sum(found.ranks.values()) == pytest.approx(len(rows[0]) * (len(rows[0]) + 1) / 2)
    assert list(found.ranks.values()) == sorted(found.ranks.values())
    if all(len(set(row)) == 1 for row in rows):
        assert found.p_value == 1.0
        return
    theirs = stats.friedmanchisquare(*np.transpose(rows))
    assert found.p_value == pytest.approx(theirs.pvalue)


@given(TABLES, st.randoms(use_true_random=False))
def test_the_order_of_tasks_and_their_scale_do_not_matter(rows, random):
    moved = [[3.0 * task + 0.5 * score for score in row] for task, row in enumerate(rows)]
    random.shuffle(moved)
    one, other = ranking(rows), ranking(moved)
    assert other.ranks == pytest.approx(one.ranks)
    assert (other.p_value, other.cliques) == (pytest.approx(one.p_value), one.cliques)


def test_all_methods_equal_on_all_tasks():
    found = ranking([[1, 1, 1], [2, 2, 2]])
    assert found.p_value == 1.0
    assert found.cliques == (("a", "b", "c"),)


def test_too_few_tasks_are_told():
    # 3 methods on 2 tasks: 2.343 * sqrt(12 / 12) is above the largest distance of ranks, 2
    assert ranking([[3, 2, 1]] * 2).note.startswith(
        "2 tasks are too few for 3 methods: even the same order on every task would not"
    )
    few = ranking([[3, 2, 1]] * 9)
    assert few.note == (
        "Inconclusive: 9 tasks are few, and both tests are approximations for 10 tasks or more."
    )
    assert ranking([[3, 2, 1]] * 10).note is None


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"a": [1, 2], "b": [1, 2]}, "at least 3 methods, got 2; compare two by compare_paired"),
        ({key: [1] for key in "abc"}, "at least 2 tasks, got 1; add tasks"),
        ({"a": [1, 2], "b": [1, 2], "c": [1]}, "{'a': 2, 'b': 2, 'c': 1} scores; leave out tasks"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        rank_methods(scores)
