"""Real commands under the environment of ``hiddenkey run``: scripts, modules, launchers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hiddenkey.launch import LaunchSettings, launch_environment, why_unattached
from models import plain_model

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("training.py")
BIN = Path(sys.executable).parent
SETTINGS = LaunchSettings("hiddenkey", rate=0.3, consistency_weight=2.0, step_cost=True)
SHADOWED = 'import sys\nprint("the shadowed one ran", __name__, file=sys.stderr)\n'

pytestmark = pytest.mark.skipif(os.name != "posix", reason="launchers of this kind")


def language_model(folder: Path) -> list[str]:
    """Save a model, a tokenizer and texts; return TRL's command for them."""
    pytest.importorskip("trl", reason="TRL is not installed")
    from integrations.test_trl import tokenizer

    plain_model("llama", "causal").save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    (folder / "data").mkdir()
    rows = [
        json.dumps({"text": " ".join(f"w{3 + (n * k) % 29}" for k in range(9))}) for n in range(8)
    ]
    (folder / "data" / "train.jsonl").write_text("\n".join(rows))
    return [
        str(BIN / "trl"), "sft", "--model_name_or_path", str(folder / "model"),
        "--dataset_name", str(folder / "data"), "--output_dir", str(folder / "sft"),
        "--max_steps", "2", "--per_device_train_batch_size", "2", "--use_cpu", "--bf16", "False",
        "--report_to", "none", "--save_strategy", "no", "--logging_steps", "1", "--use_peft",
        "--lora_target_modules", "q_proj", "v_proj",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Run all commands side by side; return each one's folder, status, output and errors."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "shadowed").mkdir()
    (folder / "shadowed" / "sitecustomize.py").write_text(SHADOWED)
    launched = [str(SCRIPT), str(folder / "launched")]
    commands = {
        "script": [sys.executable, str(SCRIPT), str(folder / "script"), "2", "3"],
        "accelerate": [str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes", "2",
                       "--num_machines", "1", "--main_process_port", "0", *launched],
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
                     *launched],
        "sft": language_model(folder),
    }  # fmt: skip
    running = {}
    for name, command in commands.items():
        added = launch_environment(SETTINGS, folder / "records" / name)
        paths = (
            added["PYTHONPATH"],
            str(folder / "shadowed"),
            str(ROOT / "src"),
        )
        environment = {**os.environ, **added, "PYTHONPATH": os.pathsep.join(paths)}
        environment |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running[name] = subprocess.Popen(command, env=environment, cwd=folder, text=True, **streams)
    found = {}
    for name, process in running.items():
        output, errors = process.communicate(timeout=180)
        found[name] = (folder / "records" / name, process.returncode, output, errors)
    return found


def read(record: Path, name: str) -> dict:
    return json.loads((record / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["script", "accelerate", "torchrun", "sft"])
def test_the_noise_and_the_loss_are_in_the_training(done, name):
    record, status, output, errors = done[name]
    assert status == (3 if name == "script" else 0), output + errors
    attached, finished = read(record, "attached"), read(record, "finished")
    assert attached["processes"] == (2 if name in ("accelerate", "torchrun") else 1)
    assert attached["config"]["consistency"]["weight"] == 2.0
    assert len(finished["sites"]) == 4
    assert all(0.1 < rate < 0.45 for rate in finished["sites"].values())
    assert finished["consistency_loss"] > 0
    assert finished["steps"] == (2 if name == "sft" else 4)
    assert why_unattached(record) is None
    said = [line for line in errors.splitlines() if line.startswith("hiddenkey: ")]
    assert sum("hidden: element, rate 0.3" in line for line in said) == 1  # the first process alone
    assert sum("times as long as without the method" in line for line in said) == 1


def test_the_record_holds_what_the_training_was(done):
    record, *_ = done["script"]
    attached = read(record, "attached")
    assert attached["trainer"] == "Trainer"
    assert attached["model"] == "BertForSequenceClassification"
    assert (attached["examples"], attached["eval_examples"]) == (48, 8)
    assert 0 < attached["trainable_parameters"] < attached["total_parameters"]
    assert attached["summary"][-1].startswith("the model's own dropout: off, was 0.1 in ")
    lines = [json.loads(line) for line in (record / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4]
    assert [line["step"] for line in lines if "eval_loss" in line] == [2, 4]
    for line in (line for line in lines if "loss" in line):
        total = line["task_loss"] + line["consistency_loss"]
        assert total == pytest.approx(line["loss"], rel=1e-3)
    finished = read(record, "finished")
    assert set(finished["dropped"]) == {"attention_logits", "hidden"}
    assert 0 < finished["seconds_per_step"] < finished["seconds"]
    assert finished["peak_memory_mib"] > 50


def test_the_same_script_begins_with_the_same_weights(done):
    weights = {read(done[name][0], "attached")["weights"] for name in ("script", "torchrun")}
    assert len(weights) == 1


def test_the_second_trainer_is_left_as_it_is_and_this_is_said(done):
    _, _, output, errors = done["script"]
    assert errors.count("another trainer trains now (Trainer), and is left as it is") == 1
    trained = [line for line in output.splitlines() if "'loss'" in line]
    assert ["consistency_loss" in line for line in trained] == [True, True, False, False]


def test_a_shadowed_sitecustomize_runs(done):
    for name in ("script", "accelerate"):
        assert "the shadowed one ran sitecustomize" in done[name][3]
