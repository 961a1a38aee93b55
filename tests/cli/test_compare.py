"""What the command refuses; whole comparisons by the command are in tests/lab/compare."""

import pytest
import yaml

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
    assert main(["compare", "no-such-file.yaml"]) == 2
    assert "no such file" in capsys.readouterr().err
