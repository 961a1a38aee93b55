import pytest

from hiddenkey.cli.main import main


def test_a_row_for_each_combination(capsys):
    words = ["--rank", "8", "16", "--tokens", "512", "2048", "--fraction", "0.5", "--every", "2"]
    assert main(["estimate", *words]) == 0
    shown = capsys.readouterr().out
    memory, time = shown.split("seconds per step")
    rows = [line.split() for line in memory.splitlines() if line.strip()[:1].isdigit()]
    assert [row[:3] for row in rows] == [
        ["1", tokens, rank] for tokens in ("512", "2,048") for rank in ("8", "16")
    ]
    assert [row[-1] for row in rows] == ["yes", "yes", "no", "no"]
    assert "13.48" in memory
    header = next(line for line in time.splitlines() if "HiddenKey-" in line)
    assert "fraction 0.5" in header
    assert "every 2" in header
    assert "(1.50×)" in time


def test_faults_are_shown(capsys):
    assert main(["estimate", "--batch-size", "0", "--model", "no such model"]) == 2
    assert "batch_size must be at least 1, got 0" in capsys.readouterr().err
    assert main(["estimate", "--model", "no such model"]) == 2
    assert "'no such model' could not be loaded" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--sharding", "ddp"], ["--rank", "four"]])
def test_wrong_types_are_shown(words, capsys):
    assert main(["estimate", *words]) == 2
    assert f"{words[0]} must be" in capsys.readouterr().err
