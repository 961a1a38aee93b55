"""Commands of several runs, and what they find."""

import time

import yaml

from crash.children import end, run_result, start
from hiddenkey.lab.evidence.record import read_records
from lab.claims.conftest import CLAIM, write
from lab.compare.driver import outcomes
from lab.conftest import write_csv


def compare(folder, model, **changes):
    """Arguments without the folder: two methods, two seeds, so four runs of four steps."""
    plan = {
        "tasks": ["file"], "models": [str(model)], "methods": ["lora", "hiddenkey"],
        "seeds": [0, 1], "ranks": [4], "report": False, "heartbeat": 1, "grace": 3,
        "common": {
            **_data(folder), "max_length": 16, "batch_size": 8, "max_steps": 4,
            "evaluations": 2, "learning_rate": 1e-2,
        },
        **changes,
    }  # fmt: skip
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    return ["compare", "--config", folder / "plan.yaml", "--output"]


def claims(folder, model):
    """Arguments without the folder: four runs that choose, and six that are compared."""
    task = {"task": "file", "model": str(model), **_data(folder)}
    scale = {
        "summary": "a random model", "seeds": [0, 1], "repeats": 1,
        "power": {"deviation": 1, "source": "made up"},
        "common": {"batch_size": 8, "max_steps": 4, "evaluations": 2, "max_length": 16},
        "choices": {
            "learning_rates": [0.01, 0.02], "rates": [0.1], "seeds": [100],
            "methods": {"lora": {}, "dropkey": {}},
        },
        "tasks": {"words": {**task, "train_size": 16, "validation": 8, "floor": 1}},
    }  # fmt: skip
    (folder / "scales").mkdir()
    write(folder / "c1.yaml", CLAIM)
    write(folder / "scales" / "mine.yaml", scale)
    chosen = ["--plans", folder, "--scale", "mine", "--workers", "1"]
    return ["claims", "C1", *chosen, "--output"]


def _data(folder):
    files = {
        "train_file": str(write_csv(folder / "train.csv", 32, 1)),
        "eval_file": str(write_csv(folder / "eval.csv", 15, 2)),
    }
    return {**files, "text_columns": ["text"]}


def undisturbed(command, folder):
    """What a command finds that nobody ends, and how long it takes."""
    log = folder.with_suffix(".log")
    started = time.monotonic()
    assert end(start([*command, folder], log)) == 0, log.read_text()
    return found(folder), time.monotonic() - started


def found(folder):
    """What all runs found, without times, and the bytes of their adapters."""
    records = read_records(folder)
    return outcomes(records), {
        record.id: run_result(folder / "runs" / record.id)[2:] for record in records
    }
