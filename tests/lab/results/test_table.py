"""Results from anywhere become the study table."""

import json
import math

import pytest

from hiddenkey import ConfigError
from hiddenkey.cli.main import main
from hiddenkey.lab.report import tabulate
from hiddenkey.lab.results.table import read_results

HEADER = "task,configuration,seed,metric,value,step,seconds"


def rows(gains=(0.0, 0.02), seeds=range(6), metric="eval_accuracy"):
    for seed in seeds:
        for name, gain in zip(("plain", "ours"), gains, strict=True):
            for step in (10, 20):
                value = 0.7 + 0.01 * seed + 0.001 * step + gain + 0.0005 * (seed % 3) * bool(gain)
                yield f"sst,{name},{seed},{metric},{value:.4f},{step},{step * (1 + 5 * gain)}"


@pytest.fixture
def write(tmp_path):
    def write(lines, name="results.csv", header=HEADER):
        path = tmp_path / name
        path.write_text("\n".join([header, *lines]) + "\n")
        return path

    return write


def faults(call):
    with pytest.raises(ConfigError) as caught:
        call()
    return "\n".join(caught.value.faults)


def test_the_verdict_is_that_of_the_paired_numbers(write):
    tables = tabulate(read_results(write(rows())), "plain")
    (table,) = tables.scopes[0].tasks
    assert table.verdict.answer == "better"
    (cell,) = [c for c in table.cells if c.configuration.label == "ours" and c.is_main("last")]
    assert cell.comparison.difference == pytest.approx(0.0205)
    assert cell.comparison.count == 6
    assert dict(cell.values)[4] == pytest.approx(0.7 + 0.04 + 0.02 + 0.02 + 0.0005)
    ours = next(cost for cost in table.costs if cost.configuration.label == "ours")
    assert ours.seconds_per_step == pytest.approx(1.1)
    assert math.exp(ours.time.logarithm.mean) == pytest.approx(1.1)


def test_a_loss_is_better_when_smaller(write):
    tables = tabulate(read_results(write(rows(metric="eval_loss"))), "plain")
    assert tables.scopes[0].tasks[0].verdict.answer == "worse"


def test_so_is_a_metric_that_the_user_says_it_of(write):
    path = write(rows(metric="cost"))
    assert tabulate(read_results(path), "plain").scopes[0].tasks[0].verdict.answer == "better"
    lower = tabulate(read_results(path, lower=True), "plain")
    assert lower.scopes[0].tasks[0].verdict.answer == "worse"


@pytest.mark.parametrize("metric", ["error_rate", "valLoss", "loss"])
def test_what_the_user_says_goes_before_what_the_name_tells(write, metric):
    path = write(rows(metric=metric))
    answers = {None: "worse", True: "worse", False: "better"}
    for lower, answer in answers.items():
        records = read_results(path, lower=lower)
        (table,) = tabulate(records, "plain").scopes[0].tasks
        assert table.verdict.answer == answer
        (ours,) = [c for c in table.cells if c.configuration.label == "ours" and c.is_main("best")]
        step = 20 if lower is False else 10
        assert dict(ours.values)[0] == pytest.approx(0.72 + 0.001 * step)
    path = write(rows(metric="neg_log_loss"))
    assert tabulate(read_results(path), "plain").scopes[0].tasks[0].verdict.answer == "better"


def test_the_command_takes_the_direction_too(write, capsys):
    path = write(rows(metric="error_rate"))
    words = ["report", str(path), "--baseline", "plain"]
    for more, answer in (
        ([], "No"),
        (["--lower-is-better"], "No"),
        (["--lower-is-better", "false"], "Yes"),
        (["--lower-is-better=false"], "Yes"),
        (["--lower-is-better", "true"], "No"),
    ):
        assert main([*words, *more]) == 0
        assert f"{answer}: ours is" in capsys.readouterr().out
    assert main(["report", "--lower-is-better", str(path), "--baseline", "plain"]) == 0


def test_a_configuration_named_like_a_method_of_ours_is_not_given_its_rate(write):
    lines = [line.replace("ours", "hiddenkey").replace("plain", "lora") for line in rows()]
    (table,) = tabulate(read_results(write(lines))).scopes[0].tasks
    assert not any("rate" in note for note in table.notes)


def test_a_missing_seed_is_said_and_the_rest_compared(write):
    kept = [line for line in rows() if not line.startswith("sst,ours,3,")]
    (table,) = tabulate(read_results(write(kept)), "plain").scopes[0].tasks
    assert any("Not all configurations have the same seeds" in note for note in table.notes)
    assert next(c.comparison.count for c in table.cells if c.comparison) == 5


@pytest.mark.parametrize("metric", ["accuracy", "eval_f1-macro", "Top 1 acc"])
def test_a_fraction_among_percentages_is_refused_with_its_line(write, metric):
    header = "task,configuration,seed,metric,value"
    lines = [f"t,plain,{seed},{metric},{80 + seed}" for seed in range(3)]
    mixed = [*lines, f"t,ours,0,{metric},0.83", f"t,ours,1,{metric},84"]
    told = faults(lambda: read_results(write(mixed, header=header)))
    assert "line 5: " in told
    assert "must have one unit, got 0.83 beside 84; write all as fractions, or all" in told
    small = [f"t,ours,{seed},{metric},0.{seed}" for seed in range(3)]
    assert len(read_results(write([*lines, *small], header=header))) == 6, "less than one percent"
    begun = [f"t,plain,0,{metric},{value},{step}" for step, value in ((0, 0.9), (9, 80))]
    assert len(read_results(write(begun, header=f"{header},step"))) == 1, "before it learnt"


@pytest.mark.parametrize("metric", ["exact_match", "wer", "rougeL"])
def test_a_configuration_of_fractions_beside_one_in_percent_is_refused(write, metric):
    def table(ours, plain):
        both = (("ours", ours), ("plain", plain))
        lines = [f"t,{name},{i},{metric},{x}" for name, xs in both for i, x in enumerate(xs)]
        return write(lines, header="task,configuration,seed,metric,value")

    told = faults(lambda: read_results(table((0.42, 0.43), (40, 41))))
    assert "line 2: " in told
    assert f"{metric} of t must have one unit, got 0.43 beside 41; write all as frac" in told
    for ours, plain in (((0, 0), (40, 41)), ((0.4, 1.2), (40, 41)), ((0.4, 0.5), (2, 3))):
        assert len(read_results(table(ours, plain))) == 4
    assert len(read_results(table((0.1, 0.1), (31, 32)))) == 4, "more than 300 times"


def test_other_numbers_may_be_on_both_sides_of_one(write):
    lines = [f"t,plain,{seed},bleu,{value}" for seed, value in enumerate((0.9, 1.5, 80))]
    assert len(read_results(write(lines, header="task,configuration,seed,metric,value"))) == 3


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            [f"t,ours,{seed},accuracy,nan" for seed in range(4)],
            "Train the runs again that failed, and give their rows new values.",
        ),
        (
            [f"t,ours,{seed},accuracy,0.8" for seed in range(4, 8)],
            "Train all configurations with the same seeds: 3 pairs are the fewest that can show"
            " anything, and 5 are usual. Add their rows to the file.",
        ),
        (
            ["t,ours,0,accuracy,0.8", "t,ours,7,accuracy,0.8"],
            "Train all configurations with the same seeds: 3 pairs are the fewest that can show"
            " anything, and 5 are usual. Add their rows to the file.",
        ),
    ],
)
def test_what_mends_a_table_is_no_command_of_ours(write, lines, words):
    plain = [f"t,plain,{seed},accuracy,0.8" for seed in range(4)]
    path = write([*plain, *lines], header="task,configuration,seed,metric,value")
    (table,) = tabulate(read_results(path), "plain").scopes[0].tasks
    assert table.advice.words == words
    assert table.advice.code == ()


def test_a_diverged_run_counts_as_failed(write):
    lines = [*rows(), "sst,ours,9,eval_accuracy,nan,20,1", "sst,plain,9,eval_accuracy,0.8,20,1"]
    tables = tabulate(read_results(write(lines)), "plain")
    (failure,) = tables.failures
    assert failure.record.reason == "the training diverged: accuracy is nan"


def test_every_broken_row_is_told_with_its_line(write):
    lines = [*rows(), *list(rows())[:1], "sst,,x,eval_accuracy,,20,-1"]
    found = faults(lambda: read_results(write(lines)))
    assert "line 26: must be the only value of 'accuracy' of sst, plain, seed 0, step 10" in found
    assert "line 2 has one too" in found
    for text in (
        "column 'configuration' must hold a name",
        "seed must be a whole number from 0 on, got 'x'",
        "value must be a number, got ''",
        "seconds must be a time, got '-1'",
    ):
        assert f"line 27: {text}" in found


@pytest.mark.parametrize("seed", ["1.5", "-1", "1e400", "", "true"])
def test_a_seed_is_a_whole_number(write, seed):
    line = f"sst,plain,{seed},eval_accuracy,0.5,1,1"
    assert "seed must be a whole number" in faults(lambda: read_results(write([line])))


def test_a_run_without_the_main_metric_is_refused(write):
    lines = ["a,x,0,f1,0.5,1,1", "a,y,0,em,0.5,1,1", "a,y,0,f1,0.6,1,1", "a,z,0,em,1,1,1"]
    assert "a, z, seed 0 has none" in faults(lambda: read_results(write(lines)))
    message = faults(lambda: read_results(write(lines), metric="f2"))
    assert "metric must be one of f1, em, got 'f2'; did you mean 'f1'?" in message


def test_the_command_writes_the_page_beside_the_file(write, capsys):
    path = write(rows())
    assert main(["report", str(path), "--baseline", "plain"]) == 0
    assert "Yes: ours is better than plain." in capsys.readouterr().out
    page = path.with_name("results-report") / "report.html"
    assert "taken on trust" in page.read_text()


def test_the_command_asks_for_the_baseline(write, capsys):
    assert main(["report", str(write(rows()))]) == 2
    assert "a configuration of the file (plain, ours), got 'lora'" in capsys.readouterr().err


def test_json_lines_are_read_too(write):
    names = HEADER.split(",")
    lines = [json.dumps(dict(zip(names, line.split(","), strict=True))) for line in rows()]
    path = write(lines[1:], "results.jsonl", header=lines[0])
    assert len(read_results(path)) == 12


def test_a_column_for_each_metric_is_told_from_a_missing_one(write):
    header = "task,configuration,seed,accuracy,loss"
    said = faults(lambda: read_results(write(["sst,plain,0,0.8,1"], header=header)))
    assert "a column for each metric (accuracy, loss)" in said
    assert "table.melt(" in said


def test_a_number_that_was_none_for_a_while_is_missing_there(write):
    lines = ["sst,plain,0,accuracy,nan,10,1", "sst,plain,0,accuracy,0.8,20,2"]
    (found,) = read_results(write([*lines, "sst,plain,0,f1,inf,20,2"]))
    assert found.result.metrics["accuracy"].best == 0.8
    assert found.result.metrics["f1"].last is None
    assert [line.get("eval_accuracy") for line in found.metrics] == [None, 0.8]


def test_a_file_without_steps_is_not_said_to_be_matched(tmp_path):
    rows = [f"t,{name},{seed},accuracy,0.{8 + seed}" for name in ("lora", "own") for seed in (0, 1)]
    path = tmp_path / "results.csv"
    path.write_text("\n".join(["task,configuration,seed,metric,value", *rows]))
    assert tabulate(read_results(path)).scopes[0].tasks[0].matching == "steps not known"


def test_losses_of_any_size_are_one_unit(tmp_path):
    sizes = {"lora": 3.1, "own": 0.031}
    rows = [f"t,{name},{seed},mse,{value}" for name, value in sizes.items() for seed in range(3)]
    path = tmp_path / "results.csv"
    path.write_text("\n".join(["task,configuration,seed,metric,value", *rows]))
    assert len(read_results(path)) == 6
    path.write_text(path.read_text().replace("mse", "wer"))
    with pytest.raises(ConfigError, match="wer of t must have one unit"):
        read_results(path)
