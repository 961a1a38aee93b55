"""From YAML to runs: the axes, precedence, and every fault of a plan at once."""

import dataclasses
from pathlib import Path

import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.compare.outline import Outline, steps
from hiddenkey.lab.plans.data import Data, check
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.search import Search, held_out
from hiddenkey.lab.plans.validation import validate
from hiddenkey.lab.run import preparation
from hiddenkey.lab.run.options import TrainOptions

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def configurations(plan):
    return [(o.task, o.method, o.rate, o.consistency_weight, o.rank) for o in plan.settings()]


def test_axes_that_mean_nothing_to_a_method_do_not_multiply_its_runs():
    plan = Plan(
        methods=("lora", "dropkey", "hiddenkey"), rates=(0.1, 0.2), consistency_weights=(0.5, 1.0)
    )
    assert configurations(plan) == [
        ("headlines", "lora", None, None, 8),
        ("headlines", "dropkey", 0.1, None, 8),
        ("headlines", "dropkey", 0.2, None, 8),
        ("headlines", "hiddenkey", 0.1, 0.5, 8),
        ("headlines", "hiddenkey", 0.1, 1.0, 8),
        ("headlines", "hiddenkey", 0.2, 0.5, 8),
        ("headlines", "hiddenkey", 0.2, 1.0, 8),
    ]


def test_method_wins_over_task_and_task_over_common():
    plan = Plan(
        tasks=("headlines", "articles"),
        common={"epochs": 1, "batch_size": 4, "max_length": 16, "rate": 0.5},
        per_task={"articles": {"batch_size": 8, "max_length": 32}},
        per_method={"hiddenkey": {"max_length": 64}},
    )
    found = {(o.task, o.method): (o.epochs, o.batch_size, o.max_length) for o in plan.settings()}
    assert found == {
        ("headlines", "lora"): (1.0, 4, 16),
        ("headlines", "hiddenkey"): (1.0, 4, 64),
        ("articles", "lora"): (1.0, 8, 32),
        ("articles", "hiddenkey"): (1.0, 8, 64),
    }
    assert {o.method: o.rate for o in plan.settings()} == {"lora": None, "hiddenkey": 0.5}


def test_data_goes_to_the_tasks_that_need_it():
    plan = Plan(tasks=("headlines", "cola"), data="glue")
    assert {o.task: o.data for o in plan.settings()} == {"headlines": None, "cola": "glue"}


def test_settings_of_a_method_that_mean_nothing_to_it_are_refused():
    with pytest.raises(ConfigError, match="method 'lora' has no consistency loss"):
        check(Plan(per_method={"lora": {"consistency_weight": 2.0}}))
    check(Plan(common={"consistency_weight": 2.0}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("lora", "lora")}, "methods must not repeat a value, got lora more than once"),
        ({"seeds": ()}, "seeds must name at least one, got none"),
        ({"seeds": (0, 1, 0)}, "seeds must not repeat a value, got 0"),
        ({"workers": 0}, "workers must be from 1 to 256, got 0"),
        ({"grace": 5}, "grace must be longer than heartbeat, got 5 and 20 seconds"),
        ({"baseline": "lorra"}, "baseline must be one of .* got 'lorra'; did you mean 'lora'"),
        ({"methods": ("lora",), "rates": (0.1,)}, r"rates are for methods that drop.*--rates \[\]"),
        ({"methods": ("lora",), "consistency_weights": (1.0,)}, "consistency_weights are for"),
        ({"common": {"learning_rat": 1}}, "common: 'learning_rat' .* mean 'learning_rate'"),
        ({"common": {"text_columns": "a"}}, "common.text_columns must be a list of str, got 'a'"),
        ({"common": {"epochs": "many"}}, "common.epochs must be float, got 'many'"),
        ({"common": {"rank": 4}}, "common: 'rank' is given by the plan's ranks"),
        ({"per_task": {"headline": {}}}, "per_task: 'headline' is not in the plan; did you mean"),
        ({"per_method": {"lora": {"epoch": 1}}}, r"per_method.lora: 'epoch' .* mean 'epochs'"),
        *(
            (
                {"per_method": {"lora": {name: value}}},
                f"per_method: {name} must be the same for all",
            )
            for name, value in {
                "train_file": "a.csv",
                "eval_file": "b.csv",
                "text_columns": ["a"],
                "label_column": "b",
                "label_names": ["c"],
                "regression": True,
                "eval_split": "test",
                "holdout": 0.2,
                "validation": 0.2,
                "train_size": 9,
                "eval_size": 9,
                "data_seed": 1,
                "resample": True,
            }.items()
        ),
        ({"workers": 1000}, "workers must be from 1 to 256, got 1000; each is a process"),
        ({"heartbeat": 10**30, "grace": 10**31}, r"heartbeat must be below 2\*\*32, got 1000"),
        ({"search": {"trails": 3}}, "search: 'trails' is not a setting; did you mean 'trials'"),
        ({"search": {"trials": 1}}, "search.trials must be a whole number from 2 to 10000, got 1"),
        ({"search": {"trials": 10**9}}, "search.trials must be .* from 2 to 10000, got 1000000000"),
        ({"search": {"space": {"rate": [0, 10**400]}}}, "search.space.rate must be .*, got .0, 10"),
        (
            {"common": {"rates": {"key": 10**400}}},
            "common.rates must be float by str, got {'key': 1000",
        ),
        ({"search": {"seeds": [0]}}, "search.seeds must differ from seeds, got 0 in both"),
        ({"search": {"seeds": [7, 7]}}, "search.seeds must be different seeds"),
        ({"search": {"validation": 1}}, r"search.validation must be in \(0, 1\), got 1"),
        ({"search": {"space": {"rates": [0, 1]}}}, "search.space: 'rates' .* mean 'rate'"),
        ({"search": {"space": {"rate": [0.2, 0.1]}}}, r"search.space.rate must be \[low, high\]"),
        ({"search": True, "rates": (0.1,)}, "rates and search.space.rate exclude each other"),
        ({"search": True, "common": {"validation": 0.2}}, "validation is set by search.validation"),
        ({"output": ""}, "output must name a folder, got none"),
        ({"output": __file__}, "output must be a folder, got file"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_faults_of_the_plan(changes, message):
    (fault,) = validate(Plan(**changes))
    assert_matches(fault, message)


def test_a_holdout_beside_a_file_to_evaluate_on_is_refused_where_the_user_gives_both(tiny_options):
    common = {"train_file": tiny_options.train_file, "text_columns": ["text"], "holdout": 0.25}
    plan = Plan(
        tasks=("file",), common=common, per_task={"file": {"eval_file": tiny_options.eval_file}}
    )
    with pytest.raises(ConfigError) as caught:
        check(plan)
    assert caught.value.faults == (
        f"holdout and eval_file exclude each other, got 0.25 and {tiny_options.eval_file!r};"
        " take one: holdout cuts the evaluation examples from train_file, eval_file names others",
    )
    check(plan, given=False)
    check(dataclasses.replace(plan, per_task={"file": {"eval_file": None}}))
    one = {"eval_file": tiny_options.eval_file, "holdout": None}
    check(dataclasses.replace(plan, per_task={"file": one}, search={"trials": 2}))


def assert_matches(text, pattern):
    with pytest.raises(AssertionError, match=pattern):
        raise AssertionError(text)


def test_all_faults_of_plan_runs_and_data_are_told_together(tmp_path):
    plan = Plan(
        tasks=("headlines", "cola", "heading"),
        methods=("lora", "hidenkey", "hiddenkey"),
        rates=(0.1, 1.5),
        seeds=(0, -1),
        common={"batch_size": 0, "train_size": 5000},
        per_task={"cola": {"data": str(tmp_path)}},
        workers=0,
    )
    with pytest.raises(ConfigError) as error:
        check(plan)
    told = error.value.faults
    for part in (
        "workers must be from 1 to 256",
        "lora on headlines: train_size must be at most 1096",
        "batch_size must be at least 1, got 0",
        "hiddenkey on headlines: rate must be in [0, 1), got 1.5",
        "got 'hidenkey'; did you mean 'hiddenkey'",
        "got 'heading'",
        "cola/train.tsv",
        "seed must be from 0 to 2**32 - 1, got -1",
    ):
        assert any(part in fault for fault in told), (part, told)
    assert len(set(told)) == len(told)
    assert any(fault.startswith("batch_size") for fault in told), "what all share is said once"


def test_search_bounds_are_checked_as_settings_of_runs():
    space = {"learning_rate": [0.0, 0.1], "rate": [0.0, 1.0]}
    with pytest.raises(ConfigError) as error:
        check(Plan(search={"space": space}))
    told = " ".join(error.value.faults)
    assert "learning_rate must be above 0, got 0.0" in told
    assert "rate must be in [0, 1), got 1.0" in told


def test_hundreds_of_runs_read_their_data_once(monkeypatch):
    read = []
    real = preparation.load_splits

    def load(options):
        read.append(options.task)
        return real(options)

    monkeypatch.setattr(preparation, "load_splits", load)
    plan = Plan(
        tasks=("headlines", "articles"),
        rates=tuple(rate / 100 for rate in range(1, 31)),
        seeds=tuple(range(10)),
    )
    outline = Outline(plan, check(plan))
    assert read == ["headlines", "articles"]
    assert outline.total == 2 * 31 * 10
    jobs = outline.jobs({})[plan.name]
    assert len({job.key for job in jobs}) == 620
    assert [job.payload["options"].get("seed", 0) for job in jobs[:62]] == [0] * 62


def test_steps_are_counted_as_trainer_counts_them(tiny_options, monkeypatch):
    from hiddenkey.lab.run.training import train

    for changes in (
        {"max_steps": None, "epochs": 1.5},
        {"max_steps": None, "epochs": 1.0, "batch_size": 5, "gradient_accumulation": 2},
    ):
        options = dataclasses.replace(tiny_options, **changes, method="lora", evaluations=1)
        options = dataclasses.replace(options, output=f"{options.output}-{options.batch_size}")
        assert steps(options, 32) == train(options).steps
    assert steps(dataclasses.replace(tiny_options, max_steps=7), 32) == 7


def test_output_names_the_comparison():
    assert Plan(output="somewhere/mine").name == "mine"
    assert Plan(output="somewhere/mine", study="ours").name == "ours"
    assert Plan(output=".").name == Path.cwd().name


def test_data_is_prepared_as_for_a_single_run(tiny_options):
    data = Data()
    first = data.prepare(tiny_options)
    second = data.prepare(dataclasses.replace(tiny_options, method="lora", seed=5))
    assert second.splits is first.splits
    assert second.config.drops == ()
    with pytest.raises(ConfigError, match="rank must be at least 1"):
        data.prepare(dataclasses.replace(tiny_options, rank=0))
    with pytest.raises(ConfigError, match="rate must be in"):
        data.prepare(dataclasses.replace(tiny_options, rate=2.0))
    assert data.fingerprint(TrainOptions()) != data.fingerprint(tiny_options)


def test_a_search_looks_at_nothing_that_the_comparison_judges_on(tiny_options):
    options = dataclasses.replace(tiny_options, eval_file=None, holdout=0.25)
    search = Search(validation=0.5)
    data = Data()
    compared, searched = data.splits(options), data.splits(held_out(options, search))
    assert (len(compared.train), len(compared.evaluation)) == (24, 8)
    assert (len(searched.train), len(searched.evaluation)) == (12, 12)
    parts = [*searched.train, *searched.evaluation]
    assert sorted(map(repr, parts)) == sorted(map(repr, compared.train))
    plan = Plan(
        tasks=("file",),
        common={"train_file": options.train_file, "text_columns": ["text"], "holdout": 0.25},
        search={"validation": 0.5, "trials": 2},
    )
    ((_, trials), *_) = Outline(plan, check(plan)).jobs({}).items()
    given = trials[0].payload["options"]
    assert (given["holdout"], given["validation"]) == (0.25, 0.5)
    assert trials[0].payload["fingerprint"] == searched.fingerprint()
