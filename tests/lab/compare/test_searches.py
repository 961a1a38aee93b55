"""Which jobs a search has at each moment, and what it chooses; no run is trained."""

from types import SimpleNamespace

import pytest

from hiddenkey.lab.compare.archive import WORST
from hiddenkey.lab.compare.searches import SearchOutline
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.trials import SearchTrial
from hiddenkey.lab.queue.jobs import State

HALVING = {"algorithm": "halving", "trials": 6, "seeds": [100, 101, 102, 103]}


def outline(**search):
    plan = Plan(tasks=("rte",), methods=("lora",), search={**HALVING, **search})
    return SearchOutline(plan, plan.settings()[:1], "data")


def ended(value, rate):
    trial = SimpleNamespace(value=value, params={"learning_rate": rate})
    return State("finished" if value is not None else "failed", trial)


class Told:
    """A search whose jobs end with values that are known."""

    def __init__(self, search, values):
        """``values``: by setting, that of each seed in turn; ``None`` fails."""
        self.search, self.values, self.states = search, values, {}

    def step(self):
        """End every job that is open; return settings and seeds of each."""
        done = []
        for job in self.search.jobs(self.states):
            if job.key in self.states:
                continue
            trial = SearchTrial.from_dict(job.payload)
            own = [self.values[trial.index][seed - 100] for seed in trial.seeds]
            value = None if None in own else sum(own) / len(own)
            self.states[job.key] = ended(value, trial.index / 100)
            done.append((trial.index, trial.seeds))
        return done


def test_the_better_half_goes_on_and_the_mean_over_all_seeds_chooses():
    values = [
        (0.50, 0.0, 0.0, 0.0),
        (0.90, 0.60, 0.60, 0.60),  # lucky with the first seed
        (0.70, 0.80, 0.80, 0.80),
        (0.60, 0.10, 0.90, 0.90),
        (0.40, 1.0, 1.0, 1.0),  # the best, but not with the first seed
        (0.10, 0.0, 0.0, 0.0),
    ]
    told = Told(outline(), values)
    assert told.search.total == 6 + 3 + 2
    assert told.search.chosen(told.states) is None
    assert told.step() == [(index, (100,)) for index in range(6)]
    assert told.step() == [(index, (101,)) for index in (1, 2, 3)]
    assert told.search.chosen(told.states) is None
    assert told.step() == [(1, (102, 103)), (2, (102, 103))]
    assert told.step() == []
    assert told.search.chosen(told.states) == {"learning_rate": 0.02}
    assert len(told.states) == told.search.total


def test_later_rounds_train_what_the_first_one_drew():
    told = Told(outline(), [(index / 10,) * 4 for index in range(6)])
    assert all(job.params == {} for job in told.search.jobs({}))
    told.step()
    later = told.search.jobs(told.states)[6:]
    assert [job.params for job in later] == [{"learning_rate": r} for r in (0.03, 0.04, 0.05)]
    assert later[0].name.endswith("search 4 of 6, round 2 of 3")


@pytest.mark.parametrize("seed", range(3))
def test_what_is_known_does_not_depend_on_the_order_in_which_jobs_end(seed):
    import random

    values = [tuple(random.Random(index).random() for _ in range(4)) for index in range(6)]
    told = Told(outline(), values)
    while told.step():
        pass
    some = dict(random.Random(seed).sample(sorted(told.states.items()), len(told.states)))
    assert told.search.chosen(some) == told.search.chosen(told.states) is not None
    some.popitem()
    assert told.search.chosen(some) is None, "a job that is missing is waited for"


def test_equal_settings_go_on_in_their_order():
    told = Told(outline(), [(0.5,) * 4] * 6)
    told.step()
    assert told.step() == [(index, (101,)) for index in (0, 1, 2)]


def test_what_diverged_or_failed_does_not_go_on():
    values = [(WORST,), (0.1, 0.2, 0.2, 0.2), (None,), (0.3, WORST), (WORST,), (0.2, 0.1, 0.1, 0.1)]
    told = Told(outline(), values)
    told.step()
    assert [index for index, _ in told.step()] == [1, 3, 5]
    assert [index for index, _ in told.step()] == [1, 5]
    assert told.search.chosen(told.states) == {"learning_rate": 0.01}
    assert told.search.unnamed(told.states) == []


def test_a_search_of_which_nothing_is_left_is_over_and_says_so():
    told = Told(outline(), [(WORST,)] * 5 + [(None,)])
    told.step()
    assert told.step() == []
    assert told.search.chosen(told.states) is None
    assert "5 of 6 diverged" in told.search.why_nothing(told.states)
    assert told.search.unnamed(told.states) == []
    lost = Told(outline(), [(0.5, None)] * 6)
    lost.step()
    assert lost.search.why_nothing(lost.states) == ""
    lost.step()
    assert lost.search.why_nothing(lost.states) == "no trial of its search succeeded"


def test_before_the_first_run_every_run_is_counted():
    search = outline(trials=12)
    rows = [*search.jobs({}), *search.unnamed({})]
    assert len(rows) == search.total == 12 + 6 + 3
    assert sum(len(SearchTrial.from_dict(job.payload).seeds) for job in rows) == 24


def test_more_trials_go_on_with_those_that_were_done():
    few, many = outline(), outline(trials=8)
    assert few.name == many.name
    assert {job.key for job in few.jobs({})} < {job.key for job in many.jobs({})}
    assert few.name != outline(algorithm="tpe").name


def test_every_method_has_as_many_runs():
    plan = Plan(tasks=("rte",), methods=("lora", "temporal", "hiddenkey"), search=HALVING)
    totals = {SearchOutline(plan, [each], "data").total for each in plan.settings()}
    assert totals == {11}
