"""What a search draws."""

import math

import optuna
import pytest

from hiddenkey.lab.plans import sampling
from hiddenkey.lab.plans.search import Search, read_search
from hiddenkey.lab.plans.trials import searched_options
from hiddenkey.lab.run.options import TrainOptions

SPACE = {"learning_rate": (1e-4, 1e-2), "rate": (0.0, 0.4), "lora_alpha": (4, 32)}


def draw(index, trials=9, space=None):
    study = optuna.create_study(direction="maximize", sampler=sampling.sampler(index, trials))
    return sampling.suggest(study.ask(), space or SPACE)


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_draws_follow_from_the_number_of_the_trial():
    assert draw(0) == draw(0)
    assert len({draw(index)["learning_rate"] for index in range(9)}) == 9


def test_methods_share_the_draws_of_what_both_have():
    assert (
        draw(2)["learning_rate"] == draw(2, space={"learning_rate": (1e-4, 1e-2)})["learning_rate"]
    )


def test_wide_bounds_are_drawn_on_a_logarithmic_scale():
    drawn = [draw(index) for index in range(60)]
    below = sum(one["learning_rate"] < 1e-3 for one in drawn)
    assert abs(below - 30) < 4 * math.sqrt(15)
    low = sum(one["rate"] < 0.2 for one in drawn)
    assert abs(low - 30) < 4 * math.sqrt(15)
    assert all(isinstance(one["lora_alpha"], int) and 4 <= one["lora_alpha"] <= 32 for one in drawn)


def test_after_a_third_the_trials_follow_what_was_good():
    study = optuna.create_study(direction="maximize")
    near = 0
    for index in range(30):
        study.sampler = sampling.sampler(index, 30)
        trial = study.ask()
        rate = sampling.suggest(trial, {"rate": (0.0, 1.0)})["rate"]
        study.tell(trial, -abs(rate - 0.7))
        near += index >= 10 and abs(rate - 0.7) < 0.15
    assert near > 10, "of 20; chance alone would bring 6"


def test_each_method_searches_what_means_something_to_it():
    space = {"learning_rate": (1e-4, 1e-2), "rate": (0.0, 0.4), "consistency_weight": (0.1, 10.0)}
    found = Search(space=space)
    assert set(found.space_of("lora")) == {"learning_rate"}
    assert set(found.space_of("dropkey")) == {"learning_rate", "rate"}
    assert set(found.space_of("hiddenkey")) == set(space)


def test_true_takes_the_defaults_and_null_is_a_grid():
    assert read_search(True) == (Search(), [])
    assert read_search(None) == read_search(False) == (None, [])
    assert read_search({"seeds": 7})[0].seeds == (7,)


def test_a_chosen_rate_replaces_rates_by_position():
    base = TrainOptions(rates={"hidden": 0.5})
    assert searched_options(base, {"rate": 0.2}).rates == {}
    assert searched_options(base, {"learning_rate": 1e-3}).rates == {"hidden": 0.5}


def test_plain_lora_chooses_what_is_used_at_inference_only_by_itself():
    space = {"learning_rate": (1e-4, 1e-2), "inference": ("last", "average")}
    plain, other = [TrainOptions(method="lora")], [TrainOptions(method="dropkey")]
    together = Search(space=space, together=True)
    assert set(together.space_of_all(other, "lora")) == {*space}
    assert set(together.space_of_all(plain, "lora")) == {"learning_rate"}
    assert set(Search(space=space).space_of_all(plain, "lora")) == {*space}


def test_a_text_is_one_of_those_that_are_given():
    drawn = {draw(index, space={"inference": ("last", "ema")})["inference"] for index in range(9)}
    assert drawn == {"last", "ema"}
    for wrong in (["last", "first"], ["last"], ["last", "last"], [0, 1], "last"):
        _, faults = read_search({"space": {"inference": wrong}})
        assert faults == [
            "search.space.inference must be two or more of last, average, ema, chosen, got"
            f" {wrong!r}; fix it"
        ]
    assert read_search({"space": {"inference": ["last", "ema"]}})[1] == []
