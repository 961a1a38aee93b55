"""How a budget is shared out."""

import pytest

from hiddenkey.errors import ConfigError
from hiddenkey.lab.tune.budget import MOST_TRIALS, Effort, Prices, effort_for, share


def planned(runs=None, seconds=None, per_trial=1, seeds=8, prices=None, given=False, workers=1):
    own = prices or Prices()
    return effort_for(runs, seconds, per_trial, range(seeds), own, given=given, workers=workers)


@pytest.mark.parametrize("runs", range(23, 90))
@pytest.mark.parametrize("per_trial", [1, 2])
def test_no_budget_is_exceeded_and_a_pair_of_runs_more_would(runs, per_trial):
    found = share(runs, per_trial, 8, 6, Prices())
    if found is None:
        assert runs < Effort(4, per_trial, 6).runs
        return
    assert found.runs <= runs < found.runs + 2 * per_trial
    assert 6 <= found.seeds <= 8
    assert found.trials >= 4


def test_seeds_are_left_out_before_there_are_fewer_trials_than_seeds():
    assert planned(36) == Effort(8, 1, 8)
    assert planned(34) == Effort(8, 1, 7)
    assert planned(30) == Effort(7, 1, 6)
    assert planned(24) == Effort(4, 1, 6)
    assert planned(36, given=True, seeds=12) == Effort(4, 1, 12)
    assert planned() == Effort(12, 1, 8)
    assert planned(10_000).trials == MOST_TRIALS


def test_a_halving_tries_more_settings_with_as_many_runs():
    found = share(60, 4, 8, 6, Prices(), "halving")
    # 28 pairs: 8 of the confirmation; 10 settings are 10 + 5 + 2 · 3 = 21, 9 are 9 + 5 + 2 · 3 = 20
    assert found == Effort(9, 4, 8, "halving")
    assert found.choosing == 20
    assert found.runs == 60
    assert Effort(12, 4, 6, "halving").choosing == 12 + 6 + 3 * 2
    assert Effort(12, 4, 6).choosing == 48


def test_seconds_are_shared_by_what_a_pair_of_runs_takes():
    prices = Prices(plain=10.0, other=30.0)
    found = planned(seconds=40 + 40 * 16, prices=prices)
    assert found == Effort(8, 1, 8)
    assert found.price(prices) == 40 + 40 * 16


def test_too_small_a_budget_names_the_least_that_is_not():
    with pytest.raises(ConfigError, match=r"runs must be at least 24 to reach a verdict .*got 23"):
        planned(23)
    assert planned(24).runs == 24
    with pytest.raises(ConfigError, match=r"must be at least 52 .*twice 4 trials, twice 20 seeds"):
        planned(51, seeds=20, given=True)
    with pytest.raises(ConfigError, match=r"minutes must be at least about 48 .*at 60 s a run.*40"):
        planned(seconds=2400, prices=Prices(60.0, 200.0))


def test_workers_share_the_time():
    prices = Prices(plain=10.0, other=30.0)
    assert planned(seconds=340, prices=prices, workers=2) == planned(seconds=680, prices=prices)
    words = r"minutes must be at least about 24 .*at 60 s a run with 2 workers\), got 20;"
    with pytest.raises(ConfigError, match=words):
        planned(seconds=1200, prices=Prices(60.0, 200.0), workers=2)
