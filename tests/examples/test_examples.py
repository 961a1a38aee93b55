"""The examples run as they stand, with the noise on and the loss made of its parts."""

import importlib.util
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "tiny")
NEEDS = {"lightning_callback": "lightning", "lightning_module": "lightning", "trl_sft": "trl"}
WITHOUT_LOSS = ["own_module"]


def test_there_is_one_for_each_trainer():
    assert SCRIPTS == [
        "accelerate_loop", "lightning_callback", "lightning_module", "own_module", "plain_loop",
        "seq2seq_trainer", "trainer", "trainer_callback", "trl_sft",
    ]  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_trains_with_noise(name, tmp_path, monkeypatch, capsys, caplog):
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr("sys.argv", [name])
    monkeypatch.setattr("hiddenkey.log._said", set())
    caplog.set_level("INFO", logger="hiddenkey")  # the callbacks say there what was attached
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the trainers, about their own dependencies
        logs = runpy.run_path(str(FOLDER / f"{name}.py"))["main"]()
    training = [log for log in logs if "loss" in log]
    assert len(training) >= 2
    last = training[-1]
    dropped = [share for key, share in last.items() if key.startswith("dropped/")]
    assert len(dropped) >= 2
    assert all(0 < share < 0.3 for share in dropped)
    assert "hidden: element, rate 0.1" in capsys.readouterr().out + caplog.text
    if name in WITHOUT_LOSS:
        return
    assert last["consistency_loss"] > 0
    total = last["task_loss"] + last["consistency_loss"]
    assert total == pytest.approx(float(last["loss"]), rel=1e-3)


def test_an_example_runs_from_the_command_line(tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "plain_loop.py")],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.count("'consistency_loss'") == 4


def test_examples_are_short():
    for name in SCRIPTS:
        assert len((FOLDER / f"{name}.py").read_text().splitlines()) <= 80
