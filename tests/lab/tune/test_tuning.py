"""``hiddenkey tune``: the whole path, with a stand-in for the training and with the real one."""

import csv
import math
import random
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from hiddenkey.cli import tune
from hiddenkey.cli.main import main
from hiddenkey.lab.compare import worker
from hiddenkey.lab.compare.launched import Launched
from hiddenkey.lab.evidence.record import read_records
from hiddenkey.lab.results.command_result import result_of
from hiddenkey.lab.run.leaving import Origin
from lab.compare.driver import finish, worker_for
from lab.conftest import write_csv

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

LOSSES = (0.9, 0.5, 0.5)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Workers in this process, which save the seconds in which others start."""
    monkeypatch.chdir(tmp_path)

    def work_off(console, coordinator, local, shown, workers):
        finish(coordinator, worker_for(coordinator, local))

    monkeypatch.setattr(tune, "work_off", work_off)
    return tmp_path


@pytest.fixture
def command(here, monkeypatch):
    """Words of a choice among stand-ins of commands; what was started stands in ``calls``."""
    (here / "train.py").write_text("")

    def launch(folder, run, limits, look):
        own = {**run.options.arguments, **vars(run.options)}
        with (here / "calls").open("a") as log:
            print(own.get("stage", "all"), own["method"], own["seed"], file=log)
        noise = random.Random(f"{own['seed']}{own['method']}").gauss(0, 0.002)
        value = 0.8 - 0.02 * abs(math.log10(own["lr"]) + 3) + noise
        if own["method"] != "lora":
            value += own["gain"] - 0.1 * abs(own["rate"] - 0.2)
        shown = [0, 0, own["rise"] + noise - 0.01 * (value > 0.82)]
        lines = [
            {"step": 10 * i, "eval_accuracy": value, "eval_loss": LOSSES[i - 1] + more}
            for i, more in enumerate(shown, start=1)
        ]
        (folder / "output").mkdir(parents=True)
        source = SimpleNamespace(lines=lines)
        return Launched(result_of(run, lines, {}, source=source, seconds=0.1), tuple(lines), {})

    monkeypatch.setattr(worker, "launch", launch)

    def words(*more, gain=0.05, rise=0.3, part="{stage}"):
        values = f"{{seed}} {{method}} {part} {{lr}} {{rate}} {{gain}} {{rise}}"
        line = f"{sys.executable} train.py {values} {{output}}"
        given = ["--command", line, "--metric", "eval_accuracy", "--methods", "mine", "yours"]
        space = ["--arguments.lr", "[0.0001,0.01]", "--output", "chosen"]
        space += [f"--arguments.gain={gain}", f"--arguments.rise={rise}"]
        return ["tune", *given, *space, "--search.trials", "4", "--seeds", "0", "1", "2", *more]

    return words


@pytest.fixture
def no_page(monkeypatch):
    """Leave the page and its figures out, which take seconds."""
    monkeypatch.setattr(tune, "write_report", lambda *_, **__: None)


def calls(here):
    return (here / "calls").read_text().splitlines()


def test_the_better_method_is_found_and_confirmed_with_equal_effort(here, command, capsys):
    assert main(command()) == 0
    shown = capsys.readouterr().out
    started = [line.split() for line in calls(here)]
    tried = [method for stage, method, _ in started[4:] if stage == "search"]
    assert tried.count("lora") == 4
    assert tried.count("mine") + tried.count("yours") == 4
    assert {"mine", "yours"} <= {*tried}, "each method's own settings are tried first"
    confirmed = [(method, seed) for stage, method, seed in started if stage == "compare"]
    winner = re.search(r"Yes: (mine|yours) is better than lora", shown)[1]
    assert sorted(confirmed) == sorted((m, s) for m in ("lora", winner) for s in "012")
    assert started[:4] == [["search", "lora", seed] for seed in ("200", "201", "202", "203")]
    assert "lora overfits: its evaluation loss rises by +0.3" in shown
    assert "Equal effort: 4 trials for lora, and as many for mine and yours together" in shown
    assert re.search(r"Chosen for lora: lr \S+\.", shown)
    assert re.search(r"what the command left with seed 0: chosen/comparison/runs/\w+/output", shown)
    assert (here / re.search(r"seed 0: (\S+)", shown)[1]).is_dir()
    assert (here / "chosen/verdict.txt").read_text() in shown
    page = (here / "chosen/comparison/report/report.html").read_text()
    assert "as many for mine and yours together" in page
    assert "same examples" not in page, "the command holds examples out"
    plan = here / "chosen/comparison/plan.yaml"
    assert yaml.safe_load(plan.read_text())["search"]["together"] is True
    before = calls(here)
    assert main(["compare", str(plan), "--report", "false"]) == 0
    assert main(["compare", str(here / "chosen/first-look/plan.yaml"), "--dry-run"]) == 0
    assert calls(here) == before, "the plans are compare's, and their runs are all there"


@pytest.mark.usefixtures("no_page")
def test_interrupted_anywhere_it_goes_on_where_it_was(here, command, monkeypatch):
    for after in (2, 3, 5):  # in the first look, in the search, in the confirmation

        def stop(console, coordinator, local, shown, workers, amount=after):
            worker = worker_for(coordinator, local)
            coordinator.advance()
            for _ in range(amount):
                worker.take_one()
                if coordinator.advance().finished:
                    return
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(tune, "work_off", stop)
            assert main(command()) == 130
        assert not (here / "chosen/verdict.txt").exists()
    assert main(command()) == 0
    started = calls(here)
    assert len(started) == 4 + 2 * 4 + 2 * 3
    once = [each for each in started if not each.endswith(" 100")]  # which is the trials' seed
    assert len({*once}) == len(once) == 4 + 2 * 3


@pytest.mark.usefixtures("no_page")
def test_halving_trains_as_many_runs_for_each_side_wherever_it_was_interrupted(
    here, command, monkeypatch, capsys
):
    words = command("--search.algorithm", "halving")
    assert main([*words, "--dry-run"]) == 0
    assert "22 runs of chosen" in capsys.readouterr().out, "4 looks, twice 4 + 2 and 3"

    def stop(console, coordinator, local, shown, workers):
        worker = worker_for(coordinator, local)
        for _ in range(5):  # in the first look, and in each round
            if coordinator.advance().finished:
                return
            worker.take_one()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tune, "work_off", stop)
        assert [main(words) for _ in range(2)] == [130, 130]
    assert main(words) == 0
    started = [line.split() for line in calls(here)]
    tried = [(method == "lora", seed) for stage, method, seed in started[4:] if stage == "search"]
    for plain in (True, False):
        seeds = [seed for is_plain, seed in tried if is_plain == plain]
        assert sorted(seeds) == ["100"] * 4 + ["101"] * 2
    assert len(started) == 4 + 2 * (4 + 2) + 2 * 3
    assert "4 trials in 6 runs, the better ones with up to 2 seeds, for" in capsys.readouterr().out


@pytest.mark.usefixtures("no_page")
def test_where_nothing_is_better_plain_lora_with_its_own_choice_is_given(here, command, capsys):
    assert main(command(gain=-0.1)) == 0
    shown = capsys.readouterr().out
    assert re.search(r"No: (mine|yours) is worse than lora, and none is better", shown)
    assert "Train with lora: no configuration is better" in shown
    rates = {
        record.options["lr"]: record.result.metrics["accuracy"].last
        for record in read_records(here / "chosen/comparison")
        if record.stage == "search" and record.options["method"] == "lora"
    }
    chosen = max(rates, key=rates.__getitem__)
    assert f"Chosen for lora: lr {chosen:.3g}." in shown
    assert re.search(rf"train.py SEED lora compare {chosen:g} 0 ", shown), "a command to train"


@pytest.mark.usefixtures("no_page")
def test_where_plain_lora_does_not_overfit_nothing_else_is_tried_unless_asked(
    here, command, capsys
):
    assert main(command(rise=-0.1)) == 0
    shown = capsys.readouterr().out
    assert "lora is not shown to overfit: its evaluation loss is lowest at the last step" in shown
    assert "Use lora: no other method was tried" in shown
    assert "above its lowest" not in shown
    assert len(calls(here)) == 4 + 4 + 1
    assert main(command("--always", rise=-0.1)) == 0
    assert "is better than lora" in capsys.readouterr().out
    assert len(calls(here)) == 4 + 2 * 4 + 2 * 3, "what was done counts"


@pytest.mark.usefixtures("no_page")
def test_the_loss_can_be_what_is_chosen_by_and_judged(here, command, capsys):
    assert main(command("--by", "loss", gain=-0.5, part="all")) == 0
    shown = capsys.readouterr().out
    assert "read the same metric on the same examples" in shown, "it takes no {stage}"
    assert re.search(r"(mine|yours) − lora = \S+ \[.*\] in loss", shown)
    assert re.search(r"Beside it, accuracy: −0\.\d+", shown)
    assert (
        yaml.safe_load((here / "chosen/comparison/plan.yaml").read_text())["search"]["by"] == "loss"
    )


@pytest.mark.usefixtures("no_page")
def test_minutes_are_turned_into_runs_by_the_first_ones(here, command, capsys, monkeypatch):
    words = [word for word in command() if word != "--search.trials"]
    words.remove("4")
    monkeypatch.setattr(tune, "_measured", lambda records: tune.Prices(30.0, 30.0))
    assert main([*words, "--minutes", "5"]) == 2
    assert "minutes must be at least about 9 to reach a verdict here" in capsys.readouterr().err
    assert main([*words, "--minutes", "10"]) == 0
    plan = yaml.safe_load((here / "chosen/comparison/plan.yaml").read_text())
    assert plan["search"]["trials"] == 5, "(600 − 4 · 30) / 60 pairs of runs, three of them seeds"
    monkeypatch.setattr(tune, "_measured", lambda records: tune.Prices(9.0, 9.0))
    assert main([*words, "--minutes", "10"]) == 0, "begun as it was planned, it goes on so"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--runs", "15"], "runs must be at least 18 to reach a verdict"),
        (["--runs", "30", "--minutes", "5"], "runs and minutes exclude each other"),
        (["--seeds", "1", "2"], "seeds must be at least 3 to reach a verdict, got 2"),
        (["--seeds", "1", "2", "100"], "search.seeds must differ from seeds, got 100"),
        (["--rates", "0.1"], "rates must be left out, since it is what is chosen"),
        (["--methods", "lora"], "methods must name one beside lora"),
        (["--arguments.lr", "0.1"], "arguments must give plain LoRA something to choose"),
        (["--search.space.lr", "[1]"], "search.space.lr must be [low, high]"),
        (["--minutes", "-1"], "minutes must be above 0"),
        (["--command", "python 'x"], "command must be words"),
    ],
)
def test_what_cannot_be_is_told_before_anything_starts(more, said, here, command, capsys):
    assert main(command(*more)) == 2
    assert said in capsys.readouterr().err
    assert not (here / "calls").exists()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (None, "my.csv: does not exist"),
        ([(f"w{n} ant", "a") for n in range(30)], "one of two or more labels, got text, label"),
        ([("w1 ant", "a"), ("w2 bee", "b")], "holdout must leave examples on both sides"),
    ],
)
def test_files_that_hold_no_choice_are_told(rows, said, here, tiny_model, capsys):
    if rows is not None:
        with (here / "my.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    assert main(["tune", "my.csv", "--models", str(tiny_model)]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown
    assert not (here / "tune").exists()


@pytest.mark.usefixtures("no_page")
def test_a_file_is_all_it_needs_and_the_adapter_is_the_result(here, tiny_model, capsys):
    write_csv(here / "my.csv", 60, 1)
    words = ["tune", "my.csv", "--models", str(tiny_model), "--common.max_steps", "2"]
    assert main([*words, "--dry-run"]) == 0
    planned = capsys.readouterr().out
    assert re.search(r"temporal or label-smoothing or .* 12 *\n", planned)
    assert "48 runs of tune/my" in planned
    assert "for 12 evaluation examples in place of 500" in planned, "a fifth of the file"
    assert re.search(r" 0\.0839 ", planned)
    assert main([*words, "--dry-run", "--by", "loss"]) == 0
    assert re.search(r"file, loss .* unknown ", capsys.readouterr().out)
    assert not (here / "tune").exists()
    assert main([*words, "--search.trials", "2"]) == 0
    shown = capsys.readouterr().out
    assert "lora is not shown to overfit" in shown
    origin = Origin.load(here / "tune/my/adapter")
    assert origin.settings["method"] == "lora"
    records = read_records(here / "tune/my/comparison")
    tried = [record for record in records if record.stage == "search"]
    (last,) = (record for record in records if record.stage == "compare")
    assert [record.options["holdout"] for record in (*tried, last)] == [0.2] * 3
    assert {record.options["validation"] for record in tried} == {0.25}
    assert last.options["validation"] is None, "it is judged on examples that chose nothing"
    best = max(tried, key=lambda r: (r.result.metrics["accuracy"].last, -r.result.eval_loss.last))
    assert origin.settings["learning_rate"] == best.options["learning_rate"]
    looks = read_records(here / "tune/my/first-look")
    assert len(looks) == 4
    assert looks[0].result.data_fingerprint == tried[0].result.data_fingerprint
    assert main(["predict", "tune/my/adapter", "my.csv", "--output", "out.csv"]) == 0
    assert len(Path("out.csv").read_text().splitlines()) == 61


@pytest.mark.usefixtures("no_page")
def test_real_trainings_of_several_methods_share_a_search(here, tiny_model, capsys):
    write_csv(here / "my.csv", 60, 1)
    words = ["tune", "my.csv", "--models", str(tiny_model), "--common.max_steps", "2"]
    words += ["--always", "--methods", "temporal", "label-smoothing"]
    assert main([*words, "--search.trials", "2", "--seeds", "0", "1", "2"]) == 0
    records = read_records(here / "tune/my/comparison")
    confirmed = {(r.options["method"], r.options["seed"]) for r in records if r.stage == "compare"}
    (winner,) = {method for method, _ in confirmed} - {"lora"}
    assert len(confirmed) == 6
    assert winner in ("temporal", "label-smoothing")
    tried = [record for record in records if record.stage == "search"]
    assert sum(record.options["method"] == "lora" for record in tried) == 2
    assert tried[0].options["rate"] is None or tried[0].options["rate"] >= 0.02
    assert len(tried) == 4
