"""``hiddenkey demo``: its plan, what it says of stored runs, and that it is the recipe's."""

import pytest

from hiddenkey.cli import demo
from hiddenkey.cli.commands import COMMANDS
from hiddenkey.cli.demo import differences, plan_of
from hiddenkey.cli.main import main
from hiddenkey.cli.options import DemoOptions
from hiddenkey.errors import ConfigError
from hiddenkey.lab.plans.validation import validate
from hiddenkey.lab.report import tabulate
from lab.report.synthetic import record


@pytest.fixture
def runs():
    return [
        record(method=method, gain=gain, noise=0.001, seed=seed, task="headlines")
        for method, gain in (("lora", 0.0), ("hiddenkey", 0.1))
        for seed in range(8)
    ]


def test_the_plan_is_the_recipes_with_the_demonstrations_settings():
    plan = plan_of(DemoOptions(output="here", seeds=3, workers=1, epochs=2.0))
    assert validate(plan) == []
    assert (plan.output, plan.seeds, plan.workers, plan.common["epochs"]) == (
        "here",
        (0, 1, 2),
        1,
        2,
    )
    lora, hiddenkey = plan.settings()
    assert (lora.method, hiddenkey.method) == ("lora", "hiddenkey")
    assert (lora.rate, hiddenkey.rate) == (None, 0.1)
    assert (lora.train_size, lora.learning_rate) == (200, hiddenkey.learning_rate)


@pytest.mark.parametrize("seeds", [0, -1, 10**9])
def test_a_number_of_seeds_that_nobody_runs_is_refused(seeds):
    with pytest.raises(ConfigError, match=f"seeds must be from 1 to 1000, got {seeds}; 5 take"):
        plan_of(DemoOptions(seeds=seeds))


def test_without_arguments_it_is_the_recipe():
    assert plan_of(DemoOptions()) == COMMANDS["compare"].read("compare", ["demo"])


def test_differences_are_told_with_interval_and_verdict(runs):
    last, best, loss = differences(tabulate(runs))
    assert last.startswith("hiddenkey − lora, accuracy after the last step: better, ")
    assert "accuracy at each run's best evaluation" in best
    assert "loss after the last step" in loss
    assert all("[" in sentence for sentence in (last, best, loss))


def test_it_prints_gap_cost_differences_and_files(runs, tmp_path, monkeypatch, capsys):
    def run_plan(plan):
        for run in runs:
            run.save(tmp_path)
        return 0

    monkeypatch.setattr(demo.compare, "run", run_plan)
    assert main(["demo", "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "time vs lora" in shown
    assert "accuracy after the last step: better" in shown
    assert f"numbers: {tmp_path}/report/tables/comparison.csv" in shown


def test_a_failed_run_is_the_exit_status(monkeypatch, capsys):
    monkeypatch.setattr(demo.compare, "run", lambda plan: 1)
    assert main(["demo"]) == 1
    assert capsys.readouterr().out == ""


def test_faults_of_the_plan_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="workers must be from 1 to 256, got 0"):
        demo.run(DemoOptions(workers=0, output=str(tmp_path)))
