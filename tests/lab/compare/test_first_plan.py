"""A plan written for a file of one's own: what it holds, and that it runs."""

import dataclasses
import json

import pytest
import yaml

from hiddenkey.cli.arguments import parse
from hiddenkey.cli.main import main
from hiddenkey.lab.compare.first_plan import SCHEMA, write_first_plan
from hiddenkey.lab.compare.prospects import prospects
from hiddenkey.lab.evidence.record import read_records
from hiddenkey.lab.plans.data import check
from hiddenkey.lab.plans.plan import Plan
from lab.compare.driver import run_here
from lab.conftest import write_csv

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_a_plan_for_a_csv_has_all_it_needs_and_runs(here, tiny_model):
    write_csv(here / "my data.csv", 60, 1)
    given = {"max_steps": 2, "evaluations": 1}
    path, said = write_first_plan(
        Plan(init="my data.csv", models=(str(tiny_model),), seeds=(0, 1, 2), common=given)
    )
    text = path.read_text()
    assert path.name == "my data.compare.yaml"
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA.as_uri()}\n")
    assert "hiddenkey compare 'my data.compare.yaml' --dry-run" in text
    assert "3 classes: ant 20, bee 20, cat 20" in text
    assert "98 of 100 texts have at most 9 tokens (by the model's tokenizer)" in text
    assert said[2] == "file: evaluation examples: 12 (ant: 4, bee: 4, cat: 4)"
    plan = read(path)
    assert plan["methods"] == ["lora", "hiddenkey-minus", "hiddenkey"]
    assert plan["seeds"] == [0, 1, 2], "what the user gave stays"
    assert plan["common"] == {
        **given,
        "train_file": "my data.csv",
        "text_columns": ["text"],
        "label_column": "label",
        "holdout": 0.2,
        "epochs": 20,
        "batch_size": 32,
        "learning_rate": 0.001,
        "max_length": 16,
    }
    parsed = parse(Plan, "compare", ["--config", str(path)])
    run_here(dataclasses.replace(parsed, seeds=(0,), methods=("lora", "hiddenkey"), report=False))
    records = read_records(here / "runs" / "my data")
    assert [record.status for record in records] == ["finished"] * 2
    assert {record.result.steps for record in records} == {2}


def test_the_command_writes_it_and_says_what_comes_next(here, tiny_model, capsys):
    write_csv(here / "my.csv", 60, 1)
    words = ["compare", "--init", "my.csv", "--models", str(tiny_model)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[-3:] == [
        "wrote my.compare.yaml; look at its comments, then run",
        "  hiddenkey compare my.compare.yaml --dry-run",
        "  hiddenkey compare my.compare.yaml",
    ]
    before = (here / "my.compare.yaml").read_bytes()
    assert main(words) == 2
    assert "init must not overwrite a plan, got 'my.compare.yaml'" in capsys.readouterr().err
    assert (here / "my.compare.yaml").read_bytes() == before
    assert main(["compare", "--init", "none.csv"]) == 2
    assert "none.csv: does not exist" in capsys.readouterr().err
    assert not (here / "none.compare.yaml").exists()


def test_a_column_that_names_parts_is_told_in_the_plan_and_beside_it(here, tiny_model):
    rows = [f"w{i} w2,{'abc'[i % 3]},{'test' if i % 5 == 0 else 'train'}" for i in range(60)]
    (here / "my.csv").write_text("\n".join(["text,outcome,split", *rows]) + "\n")
    path, said = write_first_plan(Plan(init="my.csv", models=(str(tiny_model),)))
    assert read(path)["common"]["label_column"] == "outcome"
    told = "olumn 'split' names parts (train 48, test 12) and is not used; split the file by it and"
    assert said[-1].startswith(f"c{told}")
    words = " ".join(path.read_text().replace("#", "").split())
    assert f"C{told} give the part to evaluate on as eval_file train_file: my.csv" in words


@pytest.mark.parametrize(("rows", "seeds"), [(90, 10), (600, 6), (3000, 6)])
def test_seeds_follow_from_the_evaluation_examples(here, tiny_model, rows, seeds):
    write_csv(here / "my.csv", rows, 1)
    path, _ = write_first_plan(Plan(init="my.csv", models=(str(tiny_model),)))
    plan = parse(Plan, "compare", ["--config", str(path)])
    assert plan.seeds == tuple(range(seeds))
    data = check(plan)
    (found,) = prospects(plan, [], examples=data.judged)
    assert f"{seeds} seeds show differences from about {100 * found.detectable:.1f}" in " ".join(
        path.read_text().replace("#", "").split()
    )
    (options, *_) = plan.settings()
    splits = data.splits(options)
    assert (len(splits.train), len(splits.evaluation)) == (min(2000, rows * 4 // 5), rows // 5)


def test_what_is_given_beside_it_is_kept(here, tiny_model):
    write_csv(here / "my.csv", 60, 1)
    write_csv(here / "dev.csv", 21, 2)
    search = {"trials": 2, "space": {"rate": [0.0, 0.2]}}
    given = Plan(
        init="my.csv",
        models=(str(tiny_model),),
        methods=("lora", "dropkey"),
        common={"eval_file": "dev.csv"},
        search=search,
        workers=1,
    )
    path, said = write_first_plan(given)
    assert said[0].startswith("file: texts from column 'text', labels from column ")
    assert said[2] == "file: evaluation examples: 21 (ant: 7, bee: 7, cat: 7)"
    plan = read(path)
    assert (plan["methods"], plan["search"]) == (["lora", "dropkey"], search)
    assert plan["common"]["eval_file"] == "dev.csv"
    assert "holdout" not in plan["common"]
    assert "rates" not in plan
    check(parse(Plan, "compare", ["--config", str(path)]))


def test_a_plan_for_conversations_fits_their_lengths(here, tiny_language_model):
    rows = [
        {"conversations": [{"from": "human", "value": "w1 " * n}, {"from": "gpt", "value": "w2"}]}
        for n in range(1, 21)
    ]
    (here / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path, said = write_first_plan(Plan(init="chat.jsonl", models=(str(tiny_language_model),)))
    plan = read(path)
    assert plan["tasks"] == ["completion"]
    # "User", ":", 20 words, "Assistant", ":", 8 for the answer and 2 more
    assert plan["common"]["max_length"] == 40
    assert plan["common"]["max_new_tokens"] == 16
    assert said[-1] == "completion: chat.jsonl: read as ShareGPT conversations, 20 conversations"
    check(parse(Plan, "compare", ["--config", str(path)]))


def test_labels_and_names_that_yaml_does_not_take_do_no_harm(here, tiny_model):
    rows = [
        {"te\u2028xt: #": f"w{i} w1", "label": ["a\u2028b", "c\x07d: 'e'"][i % 2]}
        for i in range(30)
    ]
    (here / "a # b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path, _ = write_first_plan(Plan(init="a # b.jsonl", models=(str(tiny_model),)))
    plan = parse(Plan, "compare", ["--config", str(path)])
    assert plan.common["text_columns"] == ["te\u2028xt: #"]
    assert plan.common["train_file"] == "a # b.jsonl"
    check(plan)


def test_faults_of_the_labels_are_told_before_a_plan_is_written(here):
    rows = [{"text": f"w{i}", "label": ["pos", "Pos", "neg"][i % 3]} for i in range(30)]
    (here / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["compare", "--init", "a.jsonl"]) == 2
    assert not (here / "a.compare.yaml").exists()
