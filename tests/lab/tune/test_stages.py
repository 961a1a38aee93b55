"""The plans of a choice: what is searched, on which examples, with which seeds."""

import pytest
import yaml

from hiddenkey.cli.commands import COMMANDS
from hiddenkey.errors import ConfigError
from hiddenkey.lab.plans.data import check
from hiddenkey.lab.tune.options import METHODS
from hiddenkey.lab.tune.stages import confirmation, first_look, wanted_seeds, whole_plan


@pytest.fixture
def path(tiny_options, tmp_path):
    """A plan as a first one is: with one rate, and a file to evaluate on."""
    plan = {
        "tasks": ["file"],
        "models": [tiny_options.model],
        "methods": ["lora", "hiddenkey"],
        "rates": [0.3],
        "seeds": [0, 1, 2],
        "common": {
            "train_file": tiny_options.train_file,
            "eval_file": tiny_options.eval_file,
            "text_columns": ["text"],
            "max_length": 16,
            "learning_rate": 0.002,
            "epochs": 10,
        },
        "output": str(tmp_path / "chosen"),
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    return str(tmp_path / "plan.yaml")


def read(*words):
    options = COMMANDS["tune"].read("tune", words)
    return options, *whole_plan(options)


def test_the_space_is_around_the_plans_own_settings(path):
    _, plan, _ = read(path)
    space = plan.searched.space
    assert space["learning_rate"] == pytest.approx((0.0004, 0.01))
    assert space["epochs"] == pytest.approx((3, 20))
    assert {"rate", "consistency_scale", "inference"} < {*space}
    assert plan.searched.by == "last"
    assert [each.rate for each in plan.settings()] == [None, 0.3], "where its choice begins"
    steps = read(path, "--common.max_steps", "100")[1].searched.space
    assert steps["max_steps"] == (30, 200)
    assert "epochs" not in steps
    own = read(path, "--search.space", '{"learning_rate": [0.1, 0.2]}', "--by", "loss")[1].searched
    assert own.space == {"learning_rate": (0.1, 0.2)}
    assert own.by == "loss"


def test_a_first_look_sees_plain_lora_on_the_searchs_held_out_examples(path):
    _, plan, data = read(path)
    look = first_look(plan)
    (settings,) = look.settings()
    assert settings.method == "lora"
    assert settings.holdout == plan.searched.validation
    assert settings.evaluations == 8
    assert not {*look.seeds} & {*plan.seeds, *plan.searched.seeds}
    compared = data.splits(plan.settings()[0])
    assert {*data.splits(settings).evaluation} <= {*compared.train}
    assert not {*data.splits(settings).evaluation} & {*compared.evaluation}
    check(look, given=False)


def test_where_there_is_nothing_to_remove_only_plain_lora_is_searched(path):
    _, plan, _ = read(path)
    both = confirmation(plan, 5, (0, 1, 2), plain=False)
    alone = confirmation(plan, 5, (0, 1, 2), plain=True)
    assert both.search == alone.search, "so that its trials count for both"
    assert both.output == alone.output
    assert (both.seeds, alone.seeds, alone.methods) == ((0, 1, 2), (0,), ("lora",))
    assert [len(group) for group in both.contenders()] == [1, 1]


def test_the_baseline_and_enough_seeds_are_added(path):
    options, plan, data = read(path, "--methods", *METHODS[1:3])
    assert plan.methods == METHODS[:3]
    assert wanted_seeds(plan, options, data) == (0, 1, 2), "as the plan says"
    options, plan, data = read(path, "--seeds", "[]")
    assert wanted_seeds(plan, options, data) == tuple(range(10)), "fifteen examples scatter much"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rates", "0.1", "0.2"], "rates must be left out"),
        (["--consistency_weights", "0.1"], "consistency_weights must be left out"),
        (["--ranks", "4", "8"], "ranks must be one for a choice, got 2; tune each by itself"),
        (["--search.trials", "1"], "search.trials must be a whole number"),
        (["--common.train_file", "no.csv"], "no.csv"),
        (["--common.batch_size", "0"], "batch_size must be at least 1"),
        (["--methods", "temporall"], "did you mean 'temporal'?"),
    ],
)
def test_what_cannot_be_tuned_is_told(path, words, said):
    with pytest.raises(ConfigError) as error:
        read(path, *words)
    assert said in str(error.value)
