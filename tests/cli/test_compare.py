"""What the command refuses; whole comparisons by the command are in tests/lab/compare."""

from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

from hiddenkey.cli import compare
from hiddenkey.cli.main import main


@pytest.fixture
def plan_file(tmp_path):
    """Write a plan; its output is beside it."""

    def write(**changes):
        path = tmp_path / "plan.yaml"
        plan = {"methods": ["lora", "hiddenkey"], "output": str(tmp_path / "out"), **changes}
        path.write_text(yaml.safe_dump(plan))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metods", "lora"], "--metods is not a setting; did you mean '--methods'?"),
        (["--storage", "nonsense"], "storage must be the URL of a database, got 'nonsense'"),
        (["--search", "--seeds", "100"], "search.seeds must differ from seeds, got 100 in both"),
        (["--common.epoch", "3"], "common: 'epoch' is not a setting of a run; did you mean"),
        (["--workers", "0", "--rates", "2"], "2 errors:"),
        (
            ["--epochs", "3"],
            "--epochs is a setting of the runs; write it under common: or give --c",
        ),
        (["--rate", "0.1"], "or give --common.rate, or several as rates"),
        (
            ["--per-task.epochs", "3"],
            "no task called 'epochs', which is a setting of the runs; giv",
        ),
        (["--per-method.rate", "1"], "the runs; give --per_method.METHOD.rate"),
        (["--per-task.hiddenkey.rank", "1"], "'hiddenkey' is a method; write it under per_method"),
        (
            ["--common.seeds", "3"],
            "common: 'seeds' is the plan's own, for all runs together; write",
        ),
    ],
)
def test_faults_are_told_in_one_line_each(plan_file, tmp_path, capsys, words, message):
    assert main(["compare", plan_file(), *words]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("out/study.db"))


def test_an_unknown_key_in_the_file_names_the_nearest(plan_file, capsys):
    assert main(["compare", plan_file(seed=[1])]) == 2
    assert "'seed' is not a setting; did you mean 'seeds'?" in capsys.readouterr().err
    own = plan_file(rates=[2.0], data="here")  # names that a run's settings have too
    assert main(["compare", own]) == 2
    assert "rate must be in [0, 1), got 2.0" in capsys.readouterr().err
    misplaced = plan_file(epochs=3, cola={"max_length": 64}, per_task={"headlines": {}, "rate": 1})
    assert main(["compare", misplaced]) == 2
    errors = capsys.readouterr().err
    for part in (
        "'epochs' is a setting of the runs; write it under common: or give --common.epochs",
        "'cola' is a task; write its settings under per_task: or give --per_task.cola",
        "'per_task' has no task called 'rate', which is a setting of the runs",
    ):
        assert part in errors
    assert main(["compare", "no-such-file.yaml"]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["my.csv", "my.TSV", "my.jsonl", "my.parquet"])
def test_data_in_place_of_a_plan_are_told_as_such(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("text,label\na: b,1\n")
    assert main(["compare", name]) == 2
    assert capsys.readouterr().err.endswith(
        f"{name}: must hold settings as 'name: value', got data; write a plan for them by"
        f" 'hiddenkey compare --init {name}'\n"
    )


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (0, ""),
        (1, "beside them: 1 run of"),
        (9, "beside them: 9 runs of earlier plans, or of other"),
    ],
)
def test_runs_that_a_folder_has_beside_the_plans_are_counted(other, said, capsys):
    coordinator = SimpleNamespace(
        records=list, other_runs=lambda: other, problems=list, may_retry=lambda: False
    )
    assert not compare.conclude(Console(), coordinator, ())
    assert capsys.readouterr().out.startswith(said)
