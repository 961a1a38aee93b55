import dataclasses
import math

import pytest

from hiddenkey.lab.claims.choice import choose, chosen_options, held_out, setting_of, trials
from hiddenkey.lab.claims.findings import Setting
from hiddenkey.lab.claims.plan import AssumedScatter, Choice, Configuration, Scale, TaskSetup
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.result import Result, Summary

LORA = Choice("lora", "lora", {}, (0.001, 0.002), (0.1, 0.2, 0.3), (100,))
DROPKEY = Choice("dropkey", "dropkey", {}, (0.001, 0.002), (0.1, 0.2, 0.3), (100,))
SETUP = TaskSetup("news", {"task": "headlines", "train_size": 300}, 500, 0.0, ("lora", "dropkey"))
SCALE = Scale("s", "", (0, 1), 1, {"epochs": 3.0}, {}, {}, AssumedScatter(1, ""))


def result(value):
    summary = Summary(value, 1, value)
    return Result(
        "news", "m", "lora", 0, "accuracy", {"accuracy": summary}, summary, None, {}, {}, 1, 1.0,
        1.0, 1, 1, 1, 1.0, None, "",
    )  # fmt: skip


def test_a_method_without_a_rate_gets_seeds_instead_of_rates():
    plain, dropping = trials(LORA, SETUP, SCALE), trials(DROPKEY, SETUP, SCALE)
    assert len(plain) == len(dropping) == 6
    assert [t.learning_rate for t in plain] == [0.001] * 3 + [0.002] * 3
    assert {t.rate for t in plain} == {None}
    assert [t.seed for t in plain] == [100, 101, 102] * 2
    assert [(t.learning_rate, t.rate) for t in dropping] == [
        (lr, rate) for lr in (0.001, 0.002) for rate in (0.1, 0.2, 0.3)
    ]
    assert {t.seed for t in dropping} == {100}
    assert all(t.epochs == 3 for t in plain + dropping)


def test_several_seeds_are_shifted_as_a_whole():
    several = dataclasses.replace(LORA, seeds=(100, 103), rates=(0.1, 0.2))
    seeds = [t.seed for t in trials(several, SETUP, SCALE)[:4]]
    assert seeds == [100, 103, 104, 107]


def test_a_choice_is_judged_on_training_examples_beside_those_it_trains_on():
    options = held_out(TrainOptions(train_size=300, eval_size=200, evaluations=5), SETUP)
    assert (options.train_size, options.eval_size, options.evaluations) == (800, None, 1)
    assert round(options.holdout * 800) == 500
    whole = held_out(TrainOptions(), dataclasses.replace(SETUP, validation=0.1))
    assert (whole.train_size, whole.holdout) == (None, 0.1)


def test_marginal_means_choose():
    scores = {
        (0.001, 0.1): 0.70, (0.001, 0.2): 0.80, (0.001, 0.3): 0.60,
        (0.002, 0.1): 0.75, (0.002, 0.2): 0.74, (0.002, 0.3): 0.76,
    }  # fmt: skip
    scores = {Setting(*key): value for key, value in scores.items()}
    found = choose(
        "news", DROPKEY, {"news": [(key, result(value)) for key, value in scores.items()]}
    )
    assert found.setting == Setting(0.002, 0.2)  # 0.75 and 0.77, not the best cell
    assert found.scores == pytest.approx(scores)
    assert (found.task, found.choice, found.runs) == ("news", "dropkey", 6)


def test_lengths_are_tried_with_every_other_setting_and_chosen_by_their_means():
    long = dataclasses.replace(DROPKEY, epochs=(3, 10), rates=(0.1, 0.2))
    tried = trials(long, SETUP, SCALE)
    assert [(t.learning_rate, t.epochs, t.rate) for t in tried] == [
        (lr, epochs, rate) for lr in (0.001, 0.002) for epochs in (3, 10) for rate in (0.1, 0.2)
    ]
    pairs = [(setting_of(long, vars(t)), result(0.5 + 0.01 * (t.epochs == 10))) for t in tried]
    found = choose("news", long, {"news": pairs})
    assert found.setting == Setting(0.001, 0.1, 10)
    configuration = Configuration("dropkey", "dropkey", {}, "dropkey")
    scale = dataclasses.replace(SCALE, choices={"dropkey": long})
    assert chosen_options(configuration, SETUP, scale, found.setting).epochs == 10


def test_the_loss_can_decide_in_place_of_the_metric():
    by_loss = dataclasses.replace(LORA, by="loss")
    losses = {Setting(0.001, None): 0.4, Setting(0.002, None): 0.6}
    pairs = [(s, dataclasses.replace(result(0.9 * loss), eval_loss=Summary(loss, 1, loss)))
             for s, loss in losses.items()]  # fmt: skip
    found = choose("news", by_loss, {"news": [*pairs, (Setting(0.004, None), None)]})
    assert found.setting == Setting(0.001, None)
    assert found.scores[Setting(0.002, None)] == -0.6
    assert found.scores[Setting(0.004, None)] == -math.inf


def test_of_equal_means_the_smaller_value_is_chosen():
    pairs = [(Setting(lr, 0.1), result(0.5)) for lr in (0.002, 0.001)]
    found = choose("news", DROPKEY, {"news": pairs})
    assert found.setting.learning_rate == 0.001


def test_a_run_that_diverged_counts_against_its_setting():
    outcomes = [(0.001, 0.2), (0.001, 0.2), (0.002, 0.9), (0.002, None)]
    for lost in (result(None), None):
        results = [lost if value is None else result(value) for _, value in outcomes]
        pairs = zip([Setting(rate, None) for rate, _ in outcomes], results, strict=True)
        found = choose("news", LORA, {"news": pairs})
        assert found.setting == Setting(0.001, None)
        assert math.isclose(found.scores[Setting(0.002, None)], -0.05)


def test_without_a_result_nothing_is_chosen():
    assert choose("news", LORA, {"news": []}) is None
    lost = [(Setting(0.001, None), None), (Setting(0.002, None), result(None))]
    assert choose("news", LORA, {"news": lost}) is None


def test_tasks_decide_together_each_by_its_differences():
    """Of two tasks the easier one lost a run, which must not count against its setting."""
    slow, fast = Setting(0.001, None), Setting(0.002, None)
    easy = [(slow, result(0.90)), (fast, result(0.91))]
    hard = [(slow, result(0.60)), (slow, result(0.60)), (fast, result(0.50))]
    found = choose("easy", LORA, {"easy": easy, "hard": hard})
    assert (found.task, found.setting, found.runs) == ("easy", slow, 5)
    assert found.scores[fast] == pytest.approx(0.705)
    lost = choose("easy", LORA, {"easy": easy[1:], "hard": hard})
    assert lost.setting == slow
    assert choose("easy", LORA, {"easy": easy, "hard": []}).setting == fast
