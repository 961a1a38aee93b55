import json
import shlex
from typing import ClassVar

import huggingface_hub
import pytest
from transformers import TrainerCallback

from hiddenkey.cli import progress
from hiddenkey.cli.main import main

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

SMALL = [
    "--train-size", "24", "--eval-size", "20", "--max-length", "24", "--batch-size", "8",
    "--max-steps", "4", "--evaluations", "2",
]  # fmt: skip


def test_run_shows_sites_progress_and_a_closing_table(tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["train", "--method", "hiddenkey", *SMALL, "--output", str(folder)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    examples, *lines = shown.splitlines()
    assert examples.startswith("training examples: 24 (business: 6, entertainment: 4, politics: 5")
    assert lines.pop(0).startswith("evaluation examples: ")
    assert lines[0].startswith("attention_logits: column, rate 0.1")
    assert "6 of 6 layers" in lines[0]
    assert lines[0].endswith("fused")
    assert [line.split(",")[0] for line in lines if line.startswith("step")] == ["step 2", "step 4"]
    result = json.loads((folder / "result.json").read_text())
    accuracy = result["metrics"]["accuracy"]
    row = next(line.split() for line in lines if line.strip().startswith("accuracy"))
    assert row[1:4] == [
        f"{accuracy['best']:.4f}",
        str(accuracy["best_step"]),
        f"{accuracy['last']:.4f}",
    ]
    assert f"run folder: {folder}" in shown

    assert main(words) == 2
    assert "holds a finished one" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main([*words, "--resume", "--rank", "4"]) == 2
    assert "rank was 8, got 4" in capsys.readouterr().err
    assert main(["train", "--resume", str(folder)]) == 0
    assert f"{accuracy['best']:.4f}" in capsys.readouterr().out


def test_texts_that_are_cut_are_counted(tmp_path, capsys):
    long, short = " ".join(["word"] * 40), "word and word"
    rows = [f"{long} {index},a\n{short} {index},b\n" for index in range(10)]
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(rows))
    words = ["--task", "file", "--train-file", str(path), "--text-columns", "text"]
    more = ["--holdout", "0.2", "--max-length", "16", "--max-steps", "1", "--evaluations", "1"]
    output = ["--output", str(tmp_path / "run")]
    assert main(["train", "--method", "lora", *words, *more, *output]) == 0
    said = "8 of 16 training examples reach max_length, 16 tokens: what lies beyond is cut"
    assert said in capsys.readouterr().out.splitlines()


def test_a_holdout_beside_a_file_to_evaluate_on_is_refused(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"w{n},{'ab'[n % 2]}\n" for n in range(20)))
    words = ["--task", "file", "--train-file", str(path), "--text-columns", "text"]
    both = ["--holdout", "0.2", "--eval-file", str(path), "--output", str(tmp_path / "run")]
    more = ["--max-steps", "1", "--evaluations", "1", "--max-length", "16"]
    assert main(["train", "--method", "lora", *words, *both, *more]) == 2
    assert "holdout and eval_file exclude each other, got 0.2 and" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_recipe_of_a_finished_run_repeats_it(tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["train", "--method", "lora", *SMALL, "--output", str(first)]) == 0
    config = str(first / "config.yaml")
    assert main(["train", "--config", config, "--output", str(second)]) == 0
    one, two = (json.loads((f / "result.json").read_text()) for f in (first, second))
    assert one["metrics"] == two["metrics"]
    assert one["eval_loss"] == two["eval_loss"]


def test_all_faults_are_shown_and_nothing_is_written(tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["--method", "hidenkey", "--batch-size", "0", "--train-size", "5000"]
    assert main(["train", *words, "--output", str(folder)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("hiddenkey train: 3 errors:\n")
    for part in ("batch_size must be at least 1", "did you mean 'hiddenkey", "at most 1096"):
        assert part in errors
    assert not folder.exists()


class Stop(TrainerCallback):
    """Presses Ctrl-C after the third step."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 3:
            raise KeyboardInterrupt


def test_ctrl_c_says_how_to_go_on_and_that_does(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "my run"
    words = ["train", "--method", "hiddenkey-minus", *SMALL, "--output", str(folder)]
    monkeypatch.setattr(progress.ShownProgress, "on_step_end", Stop().on_step_end)
    assert main(words) == 130
    hint, stopped = capsys.readouterr().err.splitlines()
    assert (hint, stopped) == (
        f"go on with: hiddenkey train --resume '{folder}'", "hiddenkey train: stopped"
    )  # fmt: skip
    monkeypatch.undo()
    assert main(shlex.split(hint.partition(": hiddenkey ")[2])) == 0
    result = json.loads((folder / "result.json").read_text())
    assert (result["method"], result["steps"]) == ("hiddenkey-minus", 4)
    # the steps before the last checkpoint were not made again
    steps = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert [step for step in steps if step.startswith("step ")] == ["step 4"]


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["--rank", "4", "--epochs=3"], ["--rank must be left out", "--epochs must be left out"]),
        (["--output", "x"], ["only --trust-remote-code, --push-to-hub may stand there"]),
        (["--rates.hidden", "0.1"], ["--rates.hidden must be left out beside --resume"]),
    ],
)
def test_settings_beside_a_resumed_folder_are_refused(words, messages, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("rank: 8\n")
    assert main(["train", "--resume", str(tmp_path), *words]) == 2
    shown = capsys.readouterr().err
    assert all(message in shown for message in messages)


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path, capsys):
    assert main(["train", f"--resume={tmp_path}"]) == 2
    assert "must name a run's folder, which holds config.yaml" in capsys.readouterr().err


class Hub:
    """Stands for huggingface_hub's API and keeps what was asked of it."""

    calls: ClassVar = []

    def whoami(self):
        self.calls.append("whoami")

    def create_repo(self, name, **given):
        self.calls.append((name, given))
        return f"https://hub/{name}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.calls.append((repo_id, {path.name for path in folder_path.iterdir()}))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(Hub, "calls", [])
    return Hub


def test_the_adapter_is_uploaded_after_the_run(hub, tmp_path, capsys):
    words = ["train", "--method", "lora", *SMALL, "--output", str(tmp_path / "run")]
    assert main([*words, "--push-to-hub", "me/mine"]) == 0
    login, created, (name, files) = hub.calls
    assert login == "whoami"
    assert created == ("me/mine", {"private": True, "exist_ok": True})
    assert name == "me/mine"
    wanted = {"adapter_config.json", "adapter_model.safetensors", "hiddenkey_run.json"}
    assert wanted | {"README.md", "tokenizer.json"} <= files
    assert "uploaded: https://hub/me/mine" in capsys.readouterr().out

    def refuse(self, **_):
        raise OSError("the hub is down")

    hub.upload_folder, before = refuse, hub.upload_folder
    try:
        assert main(["train", "--resume", str(tmp_path / "run"), "--push-to-hub", "me/mine"]) == 2
    finally:
        hub.upload_folder = before
    assert "try again with: hf upload --private me/mine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "words", "message"),
    [
        ({"HF_HUB_OFFLINE": True}, ["me/mine"], "push_to_hub needs the hub, got HF_HUB_OFFLINE"),
        ({"get_token": lambda: None}, ["me/mine"], "nobody is logged in; run: hf auth login"),
        ({"whoami": lambda self: 1 / 0}, ["me/mine"], "failed (division by zero); check the"),
        ({}, ["mine"], "push_to_hub must be USER/NAME, got 'mine'"),
        ({}, ["me/mine", "--model", "FOLDER"], "needs a base model that others can load too"),
    ],
)
def test_an_upload_that_cannot_be_made_is_refused_before_training(
    changed, words, message, hub, tmp_path, capsys, monkeypatch
):
    places = (huggingface_hub.constants, hub, huggingface_hub)
    for name, value in changed.items():
        monkeypatch.setattr(next(each for each in places if hasattr(each, name)), name, value)
    (tmp_path / "config.json").write_text("{}")
    words = [str(tmp_path) if word == "FOLDER" else word for word in words]
    output = tmp_path / "run"
    assert main(["train", *SMALL, "--output", str(output), "--push-to-hub", *words]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()
