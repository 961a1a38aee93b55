"""What a report tells its reader to do, for each verdict."""

import dataclasses
import shlex
from pathlib import Path

import pytest

from hiddenkey.cli.commands import COMMANDS
from hiddenkey.lab.plans.identity import options_from
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.stored import StoredPlan
from hiddenkey.lab.report import tabulate
from lab.report.synthetic import record, with_values

BASE = [0.80, 0.82, 0.78, 0.81, 0.79, 0.83, 0.77, 0.80]
UP, HIGHER, DOWN = (0.05, 0.04), (0.12, 0.11), (-0.05, -0.04)
NOTHING, OPEN = (0.004, -0.004, 0.002, -0.002), (0.02, -0.02, 0.01, -0.01)
PLAN = StoredPlan(
    Path("my runs/plan.yaml"), Plan(methods=("lora", "dropkey", "hiddenkey"), workers=2)
)


def configuration(shift, seeds=8, **options):
    runs = [record(seed=seed, **options) for seed in range(seeds)]
    return with_values(runs, [BASE[s] + shift[s % len(shift)] for s in range(seeds)])


def table_of(*configurations, plan=None, seeds=8):
    runs = configuration((0.0,), seeds) + [run for own in configurations for run in own]
    (table,) = tabulate(runs, plan=plan).scopes[0].tasks
    return table


def advice_on(*configurations, **more):
    return table_of(*configurations, **more).advice


def slower(runs, factor):
    return [
        dataclasses.replace(
            run,
            result=dataclasses.replace(
                run.result, seconds_per_step=factor * run.result.seconds_per_step
            ),
        )
        for run in runs
    ]


def test_one_better_configuration_is_given_as_command_and_as_lines():
    advice = advice_on(configuration(UP, method="hiddenkey", rate=0.05, learning_rate=3e-3))
    assert advice.action == "train"
    assert advice.words.startswith("Train with hiddenkey. It is the only configuration")
    shell, script = advice.code
    assert shlex.split(shell.text) == [
        *("hiddenkey", "train", "--task", "headlines", "--method", "hiddenkey"),
        *("--rate", "0.05", "--learning-rate", "0.003", "--max-steps", "200"),
    ]
    assert script.text.splitlines()[-2:] == [
        'attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.05))',
        "watch(trainer, attachment)",
    ]


def test_of_configurations_that_are_not_distinguished_the_cheaper_is_taken():
    dear = slower(configuration((0.05, 0.04, 0.052, 0.041), method="hiddenkey"), 1.5)
    advice = advice_on(configuration((0.051, 0.039, 0.05, 0.04), method="dropkey"), dear)
    assert advice.words.startswith("Train with dropkey. The 2 better configurations are not")
    assert "hiddenkey has the best mean, but dropkey takes less time" in advice.words


def test_a_configuration_that_is_shown_to_be_better_than_the_others_is_taken_at_any_cost():
    advice = advice_on(
        configuration(UP, method="dropkey"), slower(configuration(HIGHER, method="hiddenkey"), 9)
    )
    words = "Train with hiddenkey. It is shown to be better than the other"
    assert advice.words == f"{words} one that is better too."
    third = configuration((0.052, 0.04), method="hiddencut")
    advice = advice_on(
        configuration(UP, method="dropkey"), third, configuration(HIGHER, method="hiddenkey")
    )
    assert advice.words == f"{words} 2 that are better too."


def test_of_rates_that_are_not_distinguished_the_methods_own_is_taken():
    """The one with the best mean would be chosen by the evaluation examples."""
    shifts = {0.05: (0.052, 0.039), 0.1: UP, 0.3: (0.053, 0.038)}
    advice = advice_on(
        *(configuration(own, method="dropkey", rate=rate) for rate, own in shifts.items())
    )
    assert "dropkey, rate 0.1 is nearer to the method's own settings" in advice.words
    assert "--rate 0.1" in advice.code[0].text


def test_mixed_takes_the_better_one():
    advice = advice_on(configuration(UP, method="dropkey"), configuration(DOWN, method="hiddenkey"))
    assert (advice.action, advice.words[:18]) == ("train", "Train with dropkey")


@pytest.mark.parametrize(
    ("shifts", "words"),
    [
        ((DOWN,), "Train with lora: no configuration is better."),
        ((NOTHING,), "Train with lora: there is no difference as large as 0.01."),
        (
            (DOWN, OPEN),
            "Train with lora: no configuration is shown to be better; hiddenkey is inconclusive.",
        ),
    ],
)
def test_where_nothing_is_better_the_baseline_is_given(shifts, words):
    configurations = (
        configuration(own, method=m)
        for own, m in zip(shifts, ("dropkey", "hiddenkey"), strict=False)
    )
    advice = advice_on(*configurations)
    assert (advice.action, advice.words) == ("stay", words)
    (code,) = advice.code
    assert code.text == "hiddenkey train --task headlines --method lora --max-steps 200"


def test_inconclusive_names_the_seeds_that_decide_and_their_time():
    table = table_of(configuration(OPEN, method="hiddenkey"), plan=PLAN)
    cell = next(c for c in table.cells if c.comparison and c.is_main("last"))
    wanted = cell.comparison.pairs_to_decide
    assert table.advice.action == "add seeds"
    # two configurations of 245 s for each new seed, shared by two workers
    minutes = (wanted - 8) * 245 / 60
    assert table.advice.words == (
        f"Add {wanted - 8} seeds: about {wanted} in all would decide."
        f" That takes about {minutes / 60:.1f} h with 2 workers."
    )
    words = shlex.split(table.advice.code[0].text)
    assert words == [
        *("hiddenkey", "compare", "my runs/plan.yaml", "--seeds"),
        f"0-{wanted - 1}",
    ]
    assert f"about {wanted} seeds would decide" in " ".join(table.verdict.sentences)


def test_of_several_inconclusive_ones_the_verdicts_own_is_decided_on():
    wild = tuple(4 * shift for shift in OPEN)
    better = tuple(shift + 0.003 for shift in OPEN)
    table = table_of(
        configuration(better, method="dropkey"), configuration(wild, method="hiddenkey"), plan=PLAN
    )
    said = next(each for each in table.verdict.sentences if "would decide" in each)
    wanted = int(said.partition("about ")[2].split()[0])
    assert f"about {wanted} in all would decide on dropkey, the most" in table.advice.words
    assert table.advice.code[0].text.endswith(f" 0-{wanted - 1}")


def test_what_is_decided_already_is_not_what_seeds_are_for():
    table = table_of(
        configuration(NOTHING, method="dropkey"), configuration(OPEN, method="hiddenkey"), plan=PLAN
    )
    found = {
        cell.configuration.method: cell.comparison for cell in table.cells if cell.is_main("last")
    }
    assert found["dropkey"].verdict == "no clear difference"
    wanted = found["hiddenkey"].pairs_to_decide
    assert table.advice.words.startswith(f"Add {wanted - 8} seeds: about {wanted} in all would")


def test_lower_is_better_turns_the_order_round():
    """The most favourable difference of an error rate is the most negative one."""
    runs = [
        *configuration((0.0,)),
        *configuration(UP, method="dropkey"),
        *configuration(DOWN, method="hiddenkey"),
    ]
    turned = [
        dataclasses.replace(
            run,
            result=dataclasses.replace(
                run.result, main_metric="TER", metrics={"TER": run.result.metrics["accuracy"]}
            ),
        )
        for run in runs
    ]
    (table,) = tabulate(turned).scopes[0].tasks
    assert table.verdict.sentences[1].startswith("hiddenkey: better, −0.045")
    assert table.advice.words.startswith("Train with hiddenkey.")
    assert table.lead.startswith("headlines: hiddenkey − lora = −0.045")


def test_seeds_go_on_after_the_largest_and_leave_out_those_that_chose_the_settings():
    plan = dataclasses.replace(PLAN.plan, search={"seeds": [5, 6]})
    runs = [
        run
        for run in (*configuration((0.0,)), *configuration(OPEN, method="hiddenkey"))
        if run.options["seed"] < 5
    ]
    (table,) = tabulate(runs, plan=StoredPlan(PLAN.path, plan)).scopes[0].tasks
    words = shlex.split(table.advice.code[0].text)
    assert words[4:9] == ["0", "1", "2", "3", "4"]
    assert words[9].startswith("7-")


def test_without_a_plan_that_covers_the_runs_the_command_names_the_readers_own():
    other = StoredPlan(PLAN.path, dataclasses.replace(PLAN.plan, methods=("lora", "dropkey")))
    for plan in (None, other):
        text = advice_on(configuration(OPEN, method="hiddenkey"), plan=plan).code[0].text
        assert text.startswith("hiddenkey compare PLAN.yaml --seeds 0-")


def test_equal_differences_tell_no_number_of_seeds_but_the_sign_tests():
    table = table_of(configuration((0.02,), 3, method="hiddenkey"), plan=PLAN, seeds=3)
    said = "Add 3 seeds: all 3 differences are equal, so nothing shows how far they vary; 6 in all"
    assert table.advice.words.startswith(said)
    assert table.advice.code[0].text.endswith("--seeds 0 1 2 3 4 5")
    (note,) = [each for each in table.verdict.sentences if "below 6 pairs" in each]
    assert "Underpowered" not in note


def test_two_seeds_are_brought_to_the_usual_number():
    advice = advice_on(configuration(UP, 2, method="hiddenkey"), seeds=2, plan=PLAN)
    assert advice.words.startswith("Add 3 seeds: 3 pairs are the fewest that can show anything")
    assert advice.code[0].text.endswith("--seeds 0 1 2 3 4")


def test_more_than_a_thousand_seeds_are_not_worth_it():
    wild = (0.6, -0.7, 0.5, -0.6, 0.65, -0.4)
    advice = advice_on(configuration(wild, method="hiddenkey"), plan=PLAN)
    assert advice.action == "give up"
    assert "over 1000 seeds: an effect of 0.01, if there is one, is smaller than" in advice.words
    assert "--method lora" in advice.code[0].text


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        (configuration((0.0,)), "Run a method beside lora"),
        (configuration((0.0,), method="dropkey"), "Run the baseline lora too"),
        (
            [*configuration((0.0,)), record(method="dropkey", error="no")],
            "Fix what the failed runs say",
        ),
        ([record(error="no"), record(method="dropkey", error="no")], "Fix what the failed runs"),
        (
            [*configuration((0.0,)), *configuration((0.0,), 1, method="dropkey")],
            "Add 1 seed: 3 pairs are the fewest",
        ),
    ],
)
def test_where_nothing_can_be_compared_it_says_how_that_is_mended(runs, words):
    (table,) = tabulate(runs).scopes[0].tasks
    assert table.advice.action in ("repair", "add seeds")
    assert table.advice.words.startswith(words)


def test_where_plain_lora_alone_was_planned_nothing_is_missing():
    alone = StoredPlan(PLAN.path, dataclasses.replace(PLAN.plan, methods=("lora",)))
    (table,) = tabulate(configuration((0.0,)), plan=alone).scopes[0].tasks
    assert table.advice.action == "stay"
    assert table.advice.words == "Train with lora: no other method was planned beside it."
    assert "--method lora" in table.advice.code[0].text
    (table,) = tabulate(configuration((0.0,)), plan=PLAN).scopes[0].tasks
    assert table.advice.words.startswith("Run a method beside lora"), "others were planned"


def test_the_baseline_may_be_any_method():
    runs = [*configuration((0.0,)), *configuration(UP, method="hiddenkey")]
    (table,) = tabulate(runs, "hiddenkey").scopes[0].tasks
    assert table.advice.words == "Train with hiddenkey: no configuration is better."
    assert len(table.advice.code) == 2


ODD = {
    "task": "file",
    "train_file": "my data/it's $HOME; rm -rf *.csv",
    "eval_file": "--odd.csv",
    "text_columns": ("a b", "c"),
    "label_names": ("--x", "[y]", "ü"),
    "method": "hiddenkey",
    "rates": {"attention_logits": 0.05, "hidden": 0.2},
    "layers": (0, 3),
    "keep_first": False,
    "share_heads": True,
    "consistency_every": 2,
    "kernel": "reference",
    "rate_warmup": 0.1,
    "rate_decay": "linear",
    "report_to": (),
}


def test_the_command_gives_back_the_runs_options():
    plain = configuration(
        (0.0,), **{**ODD, "method": "lora", "rates": {}, "consistency_every": None}
    )
    (table,) = tabulate([*plain, *configuration(UP, **ODD)]).scopes[0].tasks
    shell, script = table.advice.code
    words = shlex.split(shell.text)
    assert words[:2] == ["hiddenkey", "train"]
    read = COMMANDS["train"].read("train", words[2:])
    assert read == options_from(record(**ODD).options)
    made = {}
    given = {"model": None, "trainer": None}
    text = script.text.replace("hiddenkey.attach(model,", "keep(model=model, config=")
    text = text.replace("from hiddenkey.integrations.trainer import watch", "")
    exec(
        text,
        {**given, "keep": lambda **own: made.update(own), "watch": lambda *own: made.update(w=own)},
    )
    assert made["config"].layers == (0, 3)
    assert [drop.rate for drop in made["config"].drops] == [0.05, 0.2]
    assert made["config"].consistency.every == 2
    assert made["kernel"] == "reference"
    assert (made["w"][2].warmup, made["w"][2].decay) == (0.1, "linear")


def test_a_task_of_a_folder_names_the_folder_or_stands_for_it():
    for data, word in ((None, "DATA_FOLDER"), ("/my/glue", "/my/glue")):
        runs = (
            configuration((0.0,), task="rte", data=data),
            configuration(UP, task="rte", data=data, method="dropkey"),
        )
        (table,) = tabulate([run for own in runs for run in own]).scopes[0].tasks
        assert f"--data {word}" in table.advice.code[0].text


def test_runs_of_somebody_elses_command_are_told_to_run_it():
    template = 'python train.py --seed {seed} --name "a b" --output {output}'

    def theirs(runs):
        return [
            dataclasses.replace(run, options={**run.options, "command": template}) for run in runs
        ]

    runs = [
        *theirs(configuration((0.0,))),
        *theirs(configuration(UP, method="hiddenkey", rate=0.2, layers=(1, 2))),
    ]
    (table,) = tabulate(runs).scopes[0].tasks
    (code,) = table.advice.code
    words = template.replace("{seed}", "SEED").replace("{output}", "OUTPUT").replace('"', "'")
    assert code.text == f"hiddenkey run --method hiddenkey --rate 0.2 --layers 1 2 -- {words}"
    averaged = [
        *theirs(configuration((0.0,))),
        *theirs(configuration(UP, method="temporal", inference="average")),
    ]
    (table,) = tabulate(averaged).scopes[0].tasks
    assert table.advice.code[0].text == (
        f"hiddenkey run --method temporal --inference average -- {words}"
    )


def test_a_table_of_results_gets_words_without_a_command():
    bare = ("task", "model", "method", "rank", "seed")

    def plain(runs, method):
        return [
            dataclasses.replace(
                run, options={**{n: run.options[n] for n in bare}, "method": method}
            )
            for run in runs
        ]

    runs = [
        *plain(configuration((0.0,)), "lora"),
        *plain(configuration(UP, method="dropkey"), "mine"),
    ]
    (table,) = tabulate(runs).scopes[0].tasks
    assert table.advice.words.startswith("Train with mine.")
    assert table.advice.code == ()
    # of two whose time nobody knows, the one with the best mean
    alike = (0.051, 0.038, 0.05, 0.04)
    untimed = slower([*runs, *plain(configuration(alike, method="hiddencut"), "another")], 0)
    (table,) = tabulate(untimed).scopes[0].tasks
    assert table.advice.words.startswith("Train with mine. Of 2 better configurations it has")


def sized(runs):
    return [
        dataclasses.replace(
            run, result=dataclasses.replace(run.result, train_examples=1200, eval_examples=300)
        )
        for run in runs
    ]


def test_the_first_line_holds_effect_model_data_and_seeds():
    table = table_of(sized(configuration(UP, method="hiddenkey", rate=0.1)))
    assert table.lead == (
        "headlines: hiddenkey − lora = +0.045 [+0.040, +0.050] in accuracy, model minilm,"
        " 1,200 training examples and 300 evaluation examples, 8 seeds."
    )
    assert "examples" not in table_of(configuration(UP, method="hiddenkey")).lead
    assert tabulate(configuration((0.0,))).scopes[0].tasks[0].lead == ""


def test_the_first_line_is_of_the_recommended_configuration():
    table = table_of(
        configuration((0.051, 0.039, 0.05, 0.04), method="dropkey"),
        slower(configuration((0.05, 0.04, 0.052, 0.041), method="hiddenkey"), 1.5),
    )
    assert table.lead.startswith("headlines: dropkey − lora")


def test_a_command_that_takes_the_method_is_given_it():
    template = "python train.py {method} {rate} --seed {seed} {output} {lr}"

    def theirs(runs):
        return [
            dataclasses.replace(run, options={**run.options, "command": template, "lr": 1e-3})
            for run in runs
        ]

    runs = [
        *theirs(configuration((0.0,))),
        *theirs(configuration(UP, method="hiddenkey", rate=0.2)),
    ]
    (table,) = tabulate(runs).scopes[0].tasks
    (code,) = table.advice.code
    assert code.text == "python train.py hiddenkey 0.2 --seed SEED OUTPUT 0.001"
