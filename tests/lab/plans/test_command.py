"""A command of the user's own as a plan's runs."""

import dataclasses
import json

import pytest

from hiddenkey.lab.plans import command as commands
from hiddenkey.lab.plans.agreement import differences, terms
from hiddenkey.lab.plans.command import CommandOptions, CommandRun
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.validation import validate

COMMAND = "python train.py --seed {seed} --out {output}"


def plan(command=COMMAND, **more):
    return Plan(command=command, metric="eval_accuracy", **more)


def run(**changes):
    options = CommandOptions(COMMAND, "train", "lora", "eval_accuracy", seed=3)
    return CommandRun(dataclasses.replace(options, **changes), "print")


def test_words_are_filled_in_and_doubled_braces_stay():
    command = """sh -c 'echo {{x}} {seed} {lr} {"a": 1}' {output} {rate}"""
    options = CommandOptions(command, "t", "dropkey", "m", arguments={"lr": 3e-4}, seed=7)
    assert options.words("/o") == ["sh", "-c", 'echo {x} 7 0.0003 {"a": 1}', "/o", "0"]
    assert commands.placeholders(command) == ["seed", "lr", "output", "rate"]


def test_each_combination_of_what_varies_is_a_configuration():
    found = plan(
        f"{COMMAND} --lr {{lr}} --r {{rank}}",
        methods=("lora", "dropkey"),
        rates=(0.1, 0.2),
        ranks=(4, 8),
        arguments={"lr": [1e-3, 1e-4]},
    ).command_settings()
    told = [(o.rank, o.method, o.arguments["lr"], o.rate) for o in found]
    assert told[:6] == [
        (4, "lora", 1e-3, None), (4, "lora", 1e-4, None),
        (4, "dropkey", 1e-3, 0.1), (4, "dropkey", 1e-3, 0.2),
        (4, "dropkey", 1e-4, 0.1), (4, "dropkey", 1e-4, 0.2),
    ]  # fmt: skip
    assert len(found) == 12
    assert {options.task for options in found} == {"train"}


def test_a_command_with_its_own_methods_varies_all_but_the_baseline():
    own = plan(f"{COMMAND} {{method}} {{rate}}", methods=("none", "mine"), baseline="none",
               rates=(0.1, 0.2))  # fmt: skip
    assert validate(own) == []
    assert [(o.method, o.rate) for o in own.command_settings()] == [
        ("none", None), ("mine", 0.1), ("mine", 0.2)
    ]  # fmt: skip
    assert not own.command_settings()[0].attaches


@pytest.mark.parametrize(
    ("command", "changes", "said"),
    [
        ("python train.py", {}, "command must hold {seed}"),
        ("python train.py --seed {seed}", {}, "command must hold {output}"),
        (f"{COMMAND} {{lr}}", {}, "{lr}, of which nothing is known"),
        (f"{COMMAND} {{sed}}", {}, "did you mean 'seed'?"),
        ("python 'train.py", {}, "words that a shell would understand"),
        ("", {}, "command must start a program, got nothing"),
        (f"no-such-program {COMMAND}", {}, "'no-such-program' is none"),
        (COMMAND, {"arguments": {"lr": 1}}, "arguments.lr must be used by the command as {lr}"),
        (COMMAND, {"arguments": {"seed": 1}}, "arguments.seed is a name that the plan fills in"),
        (f"{COMMAND} {{lr}}", {"arguments": {"lr": [1, 1]}}, "must not repeat a value"),
        (f"{COMMAND} {{lr}}", {"arguments": {"lr": {}}}, "a text, a number or a list of them"),
        (COMMAND, {"metric": None}, "metric must name what is compared"),
        (COMMAND, {"search": True}, "search.space must name what the command takes"),
        (COMMAND, {"common": {"epochs": 1}}, "common.epochs belongs to runs of 'hiddenkey train'"),
        (COMMAND, {"common": {"layer": (0,)}}, "did you mean 'layers'?"),
        (
            COMMAND,
            {"common": {"inference": "chosen"}},
            "leave it out, or name last, average or ema",
        ),
        (
            COMMAND,
            {"common": {"temperature": "fitted"}},
            "temperature needs examples that are held",
        ),
        (COMMAND, {"metric_file": "scores.csv"}, "for example: {output}/scores.csv"),
        (COMMAND, {"metric_file": "{out}/scores.csv"}, "metric_file has {out}, of which nothing"),
        (f"{COMMAND} | tee log", {}, "started without a shell, for which '|' is a word"),
        (f"GPU=0 {COMMAND}", {}, "'GPU=0' is none; put 'env' before it"),
        (COMMAND, {"common": {"average_part": 2.0}}, "2.0"),
        (COMMAND, {"per_method": {"lora": {"kernel": "quick"}}}, "per_method.lora.kernel must be"),
        (COMMAND, {"per_method": {"dropkey": {"rate": 0.2}}}, "'dropkey' is not in the plan"),
        (COMMAND, {"per_task": {"headlines": {"rate": 0.2}}}, "choose from train"),
        (
            f"{COMMAND} {{kernel}}",
            {"arguments": {"kernel": "x"}, "common": {"kernel": "fused"}},
            "common.kernel is an argument of the command too",
        ),
        (
            COMMAND,
            {"methods": ("lora", "as-is"), "per_method": {"as-is": {"kernel": "fused"}}},
            "per_method.as-is must be empty",
        ),
        (f"{COMMAND} {{method}}", {"common": {"inference": "ema"}}, "takes {method} by itself"),
        (COMMAND, {"search": {"space": {"inference": ["last", "chosen"]}}}, "got chosen"),
        (COMMAND, {"equal_time": True}, "equal_time belongs to runs of 'hiddenkey train'"),
        (COMMAND, {"ranks": (4, 8)}, "ranks with several values must be used by the command"),
        (f"{COMMAND} {{rate}}", {}, "{rate} in the command needs values, got none; give --rates"),
        (f"{COMMAND} {{model}}", {}, "{model} in the command needs values"),
        (COMMAND, {"methods": ("lora", "dropkee")}, "did you mean 'dropkey'?"),
        (COMMAND, {"rates": (1.5,)}, "1.5"),
        (COMMAND, {"methods": ("lora",), "rates": (0.1,)}, "rates are for methods that drop"),
        (COMMAND, {"time_limit": 0}, "time_limit must be at least 1"),
    ],
)
def test_what_cannot_run_is_told_before_anything_starts(command, changes, said):
    found = validate(dataclasses.replace(plan(command), **changes))
    assert any(said in fault for fault in found), found


def test_what_hiddenkey_run_takes_is_given_for_all_methods_or_for_one():
    own = plan(
        methods=("as-is", "lora", "hiddenkey"),
        baseline="as-is",
        common={"inference": "average", "rate": 0.2, "layers": [0, 1]},
        per_task={"train": {"average_part": 0.25}},
        per_method={"lora": {"inference": "last"}, "hiddenkey": {"consistency_weight": 2.0}},
    )
    assert validate(own) == []
    as_is, lora, hiddenkey = own.command_settings()
    assert (as_is.rate, as_is.attached) == (None, {})
    assert (lora.rate, lora.attached) == (None, {"layers": (0, 1), "average_part": 0.25})
    assert (hiddenkey.rate, hiddenkey.consistency_weight) == (0.2, 2.0)
    settings = hiddenkey.launch_settings()
    assert (settings.layers, settings.inference) == ((0, 1), "average")
    assert settings.average_part == 0.25
    varied = dataclasses.replace(own, rates=(0.3,)).command_settings()
    assert [options.rate for options in varied] == [None, None, 0.3]


def test_a_default_that_is_written_down_changes_no_run():
    bare, written = (
        plan(methods=("lora",), common=common).command_settings()[0]
        for common in ({}, {"inference": "last", "layers": None, "kernel": "auto"})
    )
    assert bare == written
    averaged = plan(methods=("lora",), common={"inference": "average"}).command_settings()[0]
    runs = [CommandRun(options, "print") for options in (bare, averaged)]
    assert runs[0].training != runs[1].training
    assert "attached" not in runs[0].to_dict()["command"]


def test_settings_of_an_attached_method_survive_json_and_records():
    options = CommandOptions(
        f"{COMMAND} {{layers}}", "train", "dropkey", "eval_accuracy", rate=0.1,
        arguments={"layers": 4}, attached={"rates": {"attention": 0.2}, "inference": "ema"},
    )  # fmt: skip
    own = CommandRun(options, "print")
    assert CommandRun.from_dict(json.loads(json.dumps(own.to_dict()))) == own
    assert CommandOptions.from_recorded(options.recorded()) == options
    listed = dataclasses.replace(options, command=COMMAND, arguments={}, attached={"layers": (1,)})
    again = CommandRun.from_dict(json.loads(json.dumps(CommandRun(listed, "p").to_dict())))
    assert again.options == listed
    label = commands.command_label(options.recorded(), seed=False)
    assert label == "train, dropkey rate 0.1 rates attention 0.2 inference ema, layers 4"


def test_a_plan_with_other_attached_settings_is_another_one():
    first = terms(plan(methods=("lora",)))
    other = terms(plan(methods=("lora",), common={"inference": "average"}))
    (fault,) = differences(first, other)
    assert "inference must stay what it is in this folder, it was 'last', got 'average'" in fault


def test_settings_of_commands_need_a_command():
    assert "metric belongs to a command" in validate(Plan(metric="eval_loss"))[0]


def test_a_run_is_named_by_what_is_trained_and_by_what_is_read():
    assert run().id == run().id
    for changes in ({"seed": 4}, {"method": "dropkey"}, {"rate": 0.1}, {"arguments": {"lr": 1}}):
        assert run(**changes).training != run().training
    other = run(metric="eval_f1")
    assert other.training == run().training
    assert other.id != run().id
    assert CommandRun.from_dict(run().to_dict()) == run()


def test_the_files_that_a_command_names_are_part_of_its_identity(tmp_path):
    script, settings = tmp_path / "train.py", tmp_path / "x.yaml"
    script.write_text("1")
    settings.write_text("a")
    command = f"python {script} --config={settings} --seed {{seed}} {{output}}"
    before = commands.fingerprint(command)
    settings.write_text("b")
    assert commands.fingerprint(command) != before
    settings.write_text("a")
    assert commands.fingerprint(command) == before


def test_as_is_keeps_the_models_own_dropout_and_drops_nothing():
    own = plan(methods=("as-is", "dropkey"), baseline="as-is", rates=(0.1,))
    assert validate(own) == []
    unchanged, dropkey = own.command_settings()
    assert unchanged.rate is None
    settings = unchanged.launch_settings()
    assert settings.keep_model_dropout
    assert settings.config().drops == ()
    assert not dropkey.launch_settings().keep_model_dropout
