"""The rounds of a successive halving."""

from itertools import pairwise, product

from hiddenkey.lab.plans.halving import Round, halving
from hiddenkey.lab.plans.search import Search, read_search


def test_the_better_half_gets_as_many_seeds_again_as_it_had():
    assert halving(12, (7, 8, 9, 10)) == (Round(12, (7,)), Round(6, (8,)), Round(3, (9, 10)))
    assert [each.runs for each in halving(16, range(8))] == [16, 8, 8, 8]


def test_it_ends_with_the_seeds_or_where_one_setting_would_be_left():
    assert halving(5, (1, 2, 3)) == (Round(5, (1,)), Round(3, (2,)), Round(2, (3,)))
    assert halving(3, range(100)) == (Round(3, (0,)), Round(2, (1,)))
    assert halving(2, (1, 2)) == (Round(2, (1,)),)
    assert halving(9, (1,)) == (Round(9, (1,)),)


def test_no_seed_of_a_setting_is_used_twice_and_half_goes_on():
    for trials, seeds in product(range(2, 40), range(1, 9)):
        rounds = halving(trials, range(seeds))
        used = [seed for each in rounds for seed in each.seeds]
        assert used == list(range(len(used)))
        for before, after in pairwise(rounds):
            assert 2 * after.settings - before.settings in (0, 1)
            assert after.settings >= 2, "one setting alone has nothing to be compared with"


def test_a_plan_asks_for_it_and_names_seeds_only_if_it_wants():
    search, faults = read_search({"algorithm": "halving", "trials": 8})
    assert faults == []
    assert search.seeds == (100, 101, 102, 103)
    assert sum(each.runs for each in search.rounds) == 8 + 4 + 4
    assert search.terms()["algorithm"] == "halving"
    assert "algorithm" not in Search().terms(), "plans of before go on"
    assert Search(trials=5, seeds=(1, 2)).rounds == (Round(5, (1, 2)),), "TPE has one round"


def test_one_seed_is_no_halving():
    (fault,) = read_search({"algorithm": "halving", "seeds": 4})[1]
    assert "search.seeds must be two or more for halving" in fault
    assert "got 4; leave them out, or take tpe" in fault
    (fault,) = read_search({"algorithm": "asha"})[1]
    assert "search.algorithm must be tpe or halving, got 'asha'" in fault
