"""``hiddenkey train`` as several processes, by gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from hiddenkey import ConfigError
from hiddenkey.cli.main import main
from hiddenkey.lab.run import processes
from hiddenkey.lab.run.folder import RunFolder
from hiddenkey.lab.run.leaving import Origin
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.result import Result
from hiddenkey.lab.run.training import train
from parallel.launch import on_processes

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def lines(options: TrainOptions) -> list[dict]:
    text = (options.folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def run(options: TrainOptions) -> Result:
    return train(options)


class Stop(TrainerCallback):
    """Breaks a run off after its first checkpoint."""

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 5:
            raise InterruptedError


def interrupted(options: TrainOptions) -> bool:
    with pytest.raises(InterruptedError):
        train(options, callbacks=[Stop()])
    return True


def resumed(options: TrainOptions) -> Result:
    return train(replace(options, resume=True))


def test_two_processes_train_one_run(tiny_options, tmp_path):
    options = replace(tiny_options, method="hiddenkey", rate=0.0, batch_size=4)
    one, other = on_processes(run, options)
    alone = replace(options, batch_size=8, output=str(tmp_path / "alone"))
    expected = train(alone)
    for found, same in zip(lines(options), lines(alone), strict=True):
        for name in ("train_loss", "task_loss", "eval_loss", "eval_accuracy", "step"):
            assert found[name] == pytest.approx(same[name], abs=1e-3)  # of Adam's
    assert one.metrics == other.metrics == expected.metrics
    assert Result.load(options.folder).metrics == expected.metrics
    assert json.loads((options.folder / "environment.json").read_text())["processes"] == 2


def test_a_run_of_two_processes_is_resumed_by_two(tiny_options, tmp_path):
    options = replace(tiny_options, method="hiddenkey", batch_size=4)
    assert on_processes(interrupted, options) == [True, True]
    on_processes(resumed, options)
    unbroken = replace(options, output=str(tmp_path / "unbroken"))
    on_processes(run, unbroken)
    for found, same in zip(lines(options), lines(unbroken), strict=True):
        timed = ("seconds", "seconds_per_step", "evaluation_seconds")
        assert {k: v for k, v in found.items() if k not in timed} == {
            k: v for k, v in same.items() if k not in timed
        }


def chosen_on_two(options: TrainOptions) -> dict:
    train(options)
    processes.wait()  # until the first one has written
    return dict(Origin.load(options.folder / "adapter").inference.losses)


def test_two_processes_choose_the_same_weights_as_one(tiny_options, tmp_path):
    options = replace(
        tiny_options, method="lora", batch_size=4, inference="chosen", temperature="fitted",
        choice_share=0.25,  # leaves whole batches
    )  # fmt: skip
    one, other = on_processes(chosen_on_two, options)
    alone = replace(options, batch_size=8, output=str(tmp_path / "alone"))
    train(alone)
    assert one == other
    expected = Origin.load(alone.folder / "adapter").inference
    assert one == pytest.approx(dict(expected.losses), abs=1e-3)  # of Adam's
    found, same = lines(options)[-1], lines(alone)[-1]
    for name in ("eval_loss", "eval_loss_after_temperature"):
        assert found[name] == pytest.approx(same[name], abs=2e-3)
    file = "checkpoints/checkpoint-8/hiddenkey_mean_average.safetensors"
    averages = [load_file(each.folder / file) for each in (options, alone)]
    for name in averages[1]:
        torch.testing.assert_close(averages[0][name], averages[1][name], rtol=0, atol=1e-3)


def test_another_number_of_processes_is_refused(tiny_options):
    on_processes(interrupted, tiny_options)
    with pytest.raises(ConfigError, match=r"must keep its number of processes, .* was 2, got 1"):
        train(replace(tiny_options, resume=True))


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_a_launch_that_shards_is_refused(tiny_options, monkeypatch, name):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ConfigError, match="keeps the whole model in each process, got a launch"):
        train(tiny_options)
    assert not tiny_options.folder.exists()


@pytest.mark.parametrize("command", ["compare", "demo", "methods"])
def test_other_commands_run_as_one_process(command, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([command]) == 2
    error = capsys.readouterr().err
    assert f"hiddenkey {command} runs as one process, got WORLD_SIZE=2; start it without" in error


def test_a_folder_that_does_not_write(tiny_options, tmp_path):
    folder = RunFolder(tmp_path / "run", writes=False)
    folder.start(tiny_options, {})
    folder.write_json("result.json", {})
    folder.write_lines("metrics.jsonl", [{}])
    folder.write_adapter(lambda path: path.mkdir())
    assert not folder.path.exists()
    written = RunFolder(tmp_path / "run")
    written.start(tiny_options, {})
    folder.clear()
    assert (folder.path / "config.yaml").is_file()


def test_torchrun_prints_once(tiny_options):
    words = ["train", "--model", tiny_options.model, "--task", "file"]
    words += ["--train-file", tiny_options.train_file, "--eval-file", tiny_options.eval_file]
    words += ["--text-columns", "text", "--max-steps", "2", "--evaluations", "1"]
    words += ["--max-length", "16", "--batch-size", "4", "--output", str(tiny_options.folder)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "hiddenkey.cli.main", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
             "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trainable parameters") == 1
    assert done.stdout.count("step 2") == 1
    assert Path(tiny_options.folder, "result.json").is_file()
