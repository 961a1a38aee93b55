"""Metrics are found in what trainers leave."""

import json
import math

import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.results.command_result import metric_lines
from hiddenkey.lab.results.trainer_output import find_metric, last_step

HISTORY = [
    {"loss": 1.5, "step": 10, "epoch": 0.5},
    {"eval_accuracy": 0.5, "eval_loss": 0.9, "eval_runtime": 2.0, "step": 10},
    {"loss": 1.0, "step": 20, "epoch": 1.0},
    {"eval_accuracy": 0.75, "eval_loss": 0.7, "eval_runtime": 2.0, "eval_f1": 0.6, "step": 20},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "observed").mkdir()
    return tmp_path


def find(folder, metric="eval_accuracy", named=None):
    return find_metric(
        metric,
        folder / "output",
        printed=folder / "printed.log",
        record=folder / "observed",
        named=named,
    )


def write_state(path, history):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"log_history": history}))


def test_trainers_state_gives_a_line_for_each_evaluation(folder):
    write_state(folder / "output" / "trainer_state.json", HISTORY)
    source = find(folder)
    assert metric_lines(source, "eval_accuracy") == [
        {"step": 10, "eval_accuracy": 0.5, "eval_loss": 0.9},
        {"step": 20, "eval_accuracy": 0.75, "eval_f1": 0.6, "eval_loss": 0.7},
    ]
    assert last_step(source.lines) == 20


def test_of_several_checkpoints_the_newest_counts(folder):
    write_state(folder / "output" / "checkpoint-9" / "trainer_state.json", HISTORY[:2])
    write_state(folder / "output" / "checkpoint-20" / "trainer_state.json", HISTORY)
    assert [line["step"] for line in metric_lines(find(folder), "eval_accuracy")] == [10, 20]


def test_lightnings_table_is_read_however_deep_it_lies(folder):
    table = folder / "output" / "lightning_logs" / "version_0" / "metrics.csv"
    table.parent.mkdir(parents=True)
    table.write_text(
        "epoch,step,train_loss,val_acc,val_loss\n0,4,1.0,,\n0,4,,0.5,0.9\n1,9,,0.75,0.8\n"
    )
    assert metric_lines(find(folder, "val_acc"), "val_acc") == [
        {"step": 4, "eval_val_acc": 0.5, "eval_loss": 0.9},
        {"step": 9, "eval_val_acc": 0.75, "eval_loss": 0.8},
    ]


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("scores.json", '{"em": 0.5}', [{"step": 1, "eval_em": 0.5}]),
        ("scores.json", '[{"em": 0.5}, {"em": 0.6}]', [{"step": 1, "eval_em": 0.5},
                                                      {"step": 2, "eval_em": 0.6}]),
        ("scores.jsonl", '{"em": 0.5, "step": 7}\n\n{"em": "0.6", "step": 9}\n',
         [{"step": 7, "eval_em": 0.5}, {"step": 9, "eval_em": 0.6}]),
        ("scores.csv", "step,em\n3,0.25\n", [{"step": 3, "eval_em": 0.25}]),
        ("scores.tsv", "step\tem\n3\t0.25\n", [{"step": 3, "eval_em": 0.25}]),
    ],
)  # fmt: skip
def test_a_named_file_is_read_by_its_suffix(folder, name, text, lines):
    (folder / name).write_text(text)
    write_state(folder / "output" / "trainer_state.json", [{"em": 0.1, "step": 1}])
    assert metric_lines(find(folder, "em", folder / name), "em") == lines


def test_printed_lines_count_before_files(folder):
    write_state(folder / "output" / "trainer_state.json", HISTORY)
    (folder / "printed.log").write_text(
        "starting\nhiddenkey: step=5 eval_accuracy=0.25\nhiddenkey: nothing here\n"
        "  hiddenkey: step=8 eval_accuracy=0.3 other/metric=1e-3\n"
    )
    assert metric_lines(find(folder), "eval_accuracy") == [
        {"step": 5, "eval_accuracy": 0.25},
        {"step": 8, "eval_accuracy": 0.3},
    ]


def test_a_source_without_the_metric_gives_way_to_the_next(folder):
    (folder / "printed.log").write_text("hiddenkey: step=5 other=0.25\n")
    (folder / "observed" / "log.jsonl").write_text('{"loss": 1.0, "step": 1}\n')
    (folder / "output" / "all_results.json").write_text('{"eval_accuracy": 0.5, "epoch": 2.0}')
    assert metric_lines(find(folder), "eval_accuracy") == [{"step": 1, "eval_accuracy": 0.5}]


def test_nan_is_read_as_what_it_is(folder):
    (folder / "printed.log").write_text("hiddenkey: step=5 eval_accuracy=nan\n")
    (line,) = metric_lines(find(folder), "eval_accuracy")
    assert math.isnan(line["eval_accuracy"])


def test_a_missing_metric_names_those_that_are_there(folder):
    write_state(folder / "output" / "trainer_state.json", HISTORY)
    message = r"'eval_acuracy' is not in .*loss, eval_accuracy.*did you mean 'eval_accuracy'"
    with pytest.raises(ConfigError, match=message):
        find(folder, "eval_acuracy")


def test_nothing_at_all_says_how_to_leave_something(folder):
    (folder / "output" / "trainer_state.json").write_text("{broken")
    (folder / "printed.log").write_bytes(b"\xff\xfe no metric")
    with pytest.raises(ConfigError, match=r"left no number.*save_state.*hiddenkey: step=10"):
        find(folder)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("scores.json", "[0.75]", "numbers need names"),
        ("scores.json", "0.75", "numbers need names"),
        ("scores.json", "accuracy: 0.75", "Expecting value"),
        ("trainer_state.json", "{}", "log_history"),
    ],
)
def test_a_named_file_that_cannot_be_read_is_told_with_its_reason(folder, name, content, reason):
    path = folder / "output" / name
    path.write_text(content)
    with pytest.raises(ConfigError, match=rf"metric_file must hold numbers.*{name}.*{reason}"):
        find(folder, "eval.accuracy", named=path)


def test_numbers_are_named_by_the_tables_that_they_are_in(folder):
    path = folder / "output" / "scores.json"
    path.write_text('{"eval": {"accuracy": 0.75}}')
    found = metric_lines(find(folder, "eval.accuracy", named=path), "eval.accuracy")
    assert [line["step"] for line in found] == [1]
    assert found[0]["eval_eval.accuracy"] == 0.75


def test_a_comma_or_a_percent_sign_behind_a_number_is_no_part_of_it(folder):
    (folder / "printed.log").write_text("hiddenkey: step=10, eval_accuracy=71.5%, eval_loss=2\n")
    assert find(folder).lines == ({"step": 10.0, "eval_accuracy": 71.5, "eval_loss": 2.0},)


def test_a_line_that_was_left_half_costs_no_other(folder):
    path = folder / "scores.jsonl"
    path.write_text('{"step": 1, "acc": 0.5}\n{"step": 2, "ac')
    assert find(folder, "acc", named=path).lines == ({"step": 1.0, "acc": 0.5},)
