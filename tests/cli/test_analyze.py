import pytest

from hiddenkey.cli import analyze
from hiddenkey.cli.analyze import ANALYSES
from hiddenkey.cli.commands import Command
from hiddenkey.cli.main import main
from hiddenkey.errors import ConfigError


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_all_analyses_are_listed(words, capsys):
    assert main(["analyze", *words]) == 0
    shown = capsys.readouterr().out
    for name, analysis in ANALYSES.items():
        assert f"  {name}" in shown
        assert analysis.summary in shown


def test_an_unknown_analysis_is_refused_with_the_nearest(capsys):
    assert main(["analyze", "gradient-nose"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hiddenkey analyze: error: analysis must be one of gradient-noise,")
    assert "got 'gradient-nose'; did you mean 'gradient-noise'?" in error


@pytest.mark.parametrize("name", list(ANALYSES))
def test_every_analysis_says_its_settings(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["analyze", name, "--help"])
    assert ended.value.code == 0
    assert f"hiddenkey analyze {name}" in capsys.readouterr().out


def test_a_study_that_is_not_installed_is_named_with_its_command(monkeypatch):
    missing = Command("a question", "no_such_study.command")
    monkeypatch.setattr(analyze, "ANALYSES", {"gradient-noise": missing})
    with pytest.raises(ConfigError, match=r"checkout.*run: python studies/no_such_study"):
        analyze.run(["gradient-noise"])
