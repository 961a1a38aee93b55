"""One trial of a search: where it begins, what it may choose, which run it makes."""

import dataclasses
import json

import pytest

from hiddenkey.lab.plans.command import CommandOptions, CommandRun
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.search import Search
from hiddenkey.lab.plans.trials import SearchTrial, searched_options, with_chosen
from hiddenkey.lab.plans.validation import validate
from hiddenkey.lab.run.options import TrainOptions

SPACE = {"learning_rate": (1e-3, 1e-2), "rate": (0.2, 0.4), "consistency_weight": (0.5, 2.0)}
TEXT = "python train.py --seed {seed} --out {output} --lr {lr} --part {stage}"
METHODS = ("hiddenkey", "dropkey")


def trial(contenders, index=0, space=None, trials=8):
    search = Search(space=SPACE if space is None else space)
    first, *others = contenders
    own = search.space_of_all(contenders, "lora")
    return SearchTrial(first, "data", index, trials, (100,), own, tuple(others), "last")


def ours(*methods):
    return [TrainOptions(method=method) for method in methods]


def command(method="dropkey", text=TEXT):
    arguments = {"lr": 0.003, "stage": "compare"}
    return CommandOptions(text, "train", method, "acc", arguments=arguments)


def test_a_method_gets_only_the_settings_that_it_has():
    drawn = {"method": "dropkey", "learning_rate": 2e-3, "rate": 0.3, "consistency_weight": 1.5}
    found = with_chosen(ours(*METHODS), drawn)
    assert (found.method, found.learning_rate, found.rate) == ("dropkey", 2e-3, 0.3)
    assert found.consistency_weight is None
    assert with_chosen(ours(*METHODS), drawn | {"method": "hiddenkey"}).consistency_weight == 1.5


def test_a_weight_may_be_a_factor_of_each_methods_own():
    drawn = {"method": "label-smoothing", "consistency_scale": 0.5, "rate": 0.3}
    pair = ours("hiddenkey", "label-smoothing")
    found = with_chosen(pair, drawn)
    assert (found.consistency_weight, found.rate) == (pytest.approx(0.05), None)
    assert with_chosen(pair, drawn | {"method": "hiddenkey"}).consistency_weight == 0.5
    heavy = TrainOptions(method="hiddenkey", consistency_weight=3.0)
    assert searched_options(heavy, {"consistency_scale": 0.5}).consistency_weight == 1.5
    assert trial(pair, space={"consistency_scale": (0.25, 4.0)}).first["consistency_scale"] == 1.0


def test_a_command_may_choose_which_weights_it_leaves():
    chosen = searched_options(command(), {"inference": "average", "lr": 0.01, "rate": 0.3})
    assert chosen.attached == {"inference": "average"}
    assert chosen.arguments == {"lr": 0.01, "stage": "compare"}
    assert searched_options(chosen, {"inference": "last"}).attached == {}
    space = {"inference": ["last", "average", "ema"]}
    own = Plan(command=TEXT.replace(" --part {stage}", ""), metric="acc", arguments={"lr": 1e-3})
    assert validate(dataclasses.replace(own, search={"space": space})) == []


def test_plain_lora_has_no_part_in_what_only_methods_have():
    assert set(trial(ours("lora")).space) == {"learning_rate"}
    assert list(trial(ours(*METHODS)).space) == ["method", *SPACE]
    assert trial(ours(*METHODS)).space["method"] == METHODS
    assert set(trial(ours("lora", "dropkey")).space) == {"method", "learning_rate", "rate"}


def test_the_first_trials_are_each_methods_own_settings_within_the_space():
    first, second, third = (trial(ours(*METHODS), index).first for index in range(3))
    assert first == {
        "method": "hiddenkey", "learning_rate": 1e-3, "rate": 0.2, "consistency_weight": 1.0
    }  # fmt: skip
    assert second == {"method": "dropkey", "learning_rate": 1e-3, "rate": 0.2}
    assert third == {}
    assert trial(ours("lora")).first == {"learning_rate": 1e-3}
    assert trial(ours(*METHODS), 1, trials=2).first == {}, "half of the trials are left to choose"


@pytest.mark.parametrize(
    "contenders", [ours("lora"), ours(*METHODS), [command(), command("hiddenkey")]]
)
def test_a_trial_is_the_same_after_its_way_through_the_database(contenders):
    space = {"lr": (1e-4, 1e-2), "rate": (0.1, 0.2)} if len(contenders) == 2 else SPACE
    found = trial(contenders, space=space)
    assert SearchTrial.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_plain_trial_is_stored_as_earlier_versions_did():
    plain = dataclasses.replace(trial(ours("lora")), by="best")
    assert set(plain.to_dict()) == {"options", "fingerprint", "index", "trials", "seeds", "space"}


def test_a_commands_trial_fills_in_what_was_chosen_and_that_it_is_a_search():
    space = {"lr": (1e-4, 1e-2), "rate": (0.1, 0.2)}
    found = trial([command(), command("hiddenkey")], space=space)
    run = found.run({"method": "hiddenkey", "lr": 5e-3, "rate": 0.15}, seed=100)
    assert isinstance(run, CommandRun)
    assert run.stage == "search"
    assert " ".join(run.options.words("X")[2:]) == "--seed 100 --out X --lr 0.005 --part search"
    assert run.options.launch_settings().method == "hiddenkey"
    assert run.options.launch_settings().rate == 0.15
    assert command().words("X")[-1] == "compare"
    assert searched_options(command(), {"lr": 1e-3}).arguments["lr"] == 1e-3


def test_a_command_that_takes_the_method_has_a_rate_only_where_it_says():
    space = {"lr": (1e-4, 1e-2), "rate": (0.1, 0.2)}
    own = command("mine", TEXT + " {method} {rate}")
    assert set(trial([own], space=space).space) == {"lr", "rate"}
    assert set(trial([dataclasses.replace(own, method="lora")], space=space).space) == {"lr"}
    assert set(trial([command("mine", TEXT + " {method}")], space=space).space) == {"lr"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rates": (0.1,)}, "rates and search.together exclude each other"),
        ({"equal_time": True}, "equal_time and search.together exclude each other"),
        ({"search": {"together": 1}}, "search.together must be true or false, got 1"),
        ({"search": {"by": "worst"}}, "search.by must be best, last or loss, got 'worst'"),
        ({"search": {"space": {"lr": [0, 1]}}}, "'lr' cannot be searched"),
        (
            {"command": TEXT, "metric": "acc", "arguments": {"lr": [1, 2], "stage": "compare"}},
            "arguments.lr must be one value with search.together",
        ),
        (
            {"command": TEXT, "metric": "acc", "arguments": {"lr": 1, "stage": "compare"}},
            "search.space must name what the command takes, got none",
        ),
    ],
)
def test_what_cannot_be_searched_together_is_told(changes, said):
    plan = Plan(**{"search": {"together": True}, **changes})
    assert any(said in fault for fault in validate(plan)), validate(plan)


def test_all_methods_beside_the_baseline_are_one_contender():
    plan = Plan(methods=("lora", *METHODS), search={"together": True})
    assert [[each.method for each in group] for group in plan.contenders()] == [
        ["lora"],
        [*METHODS],
    ]
    apart = dataclasses.replace(plan, search=True)
    assert [len(group) for group in apart.contenders()] == [1, 1, 1]
