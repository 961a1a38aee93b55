import json

import pytest

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
