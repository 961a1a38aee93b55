"""``hiddenkey compare``, ended at any moment and begun again, finds what it would have found."""

import os
import signal
import time
from contextlib import suppress

import pytest
import yaml

from crash.children import MOMENTS, end, ended_after, moments, run_result, said, start
from hiddenkey.lab.evidence.record import read_records
from lab.compare.driver import outcomes
from lab.conftest import write_csv

pytestmark = pytest.mark.skipif(not MOMENTS, reason="make crash runs it")


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def command(request, tiny_model, tmp_path_factory):
    """Two methods, two seeds: four runs of four steps."""
    folder = tmp_path_factory.mktemp("data")
    plan = {
        "tasks": ["file"], "models": [str(tiny_model)], "methods": ["lora", "hiddenkey"],
        "seeds": [0, 1], "ranks": [4], "workers": request.param, "report": False,
        "heartbeat": 1, "grace": 3,
        "common": {
            "train_file": str(write_csv(folder / "train.csv", 32, 1)),
            "eval_file": str(write_csv(folder / "eval.csv", 15, 2)),
            "text_columns": ["text"], "max_length": 16, "batch_size": 8, "max_steps": 4,
            "evaluations": 2, "learning_rate": 1e-2,
        },
    }  # fmt: skip
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    return ["compare", "--config", folder / "plan.yaml", "--output"]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "study"
    started = time.monotonic()
    assert end(start([*command, folder], folder.with_suffix(".log"))) == 0
    return found(folder), time.monotonic() - started


def found(folder):
    records = read_records(folder)
    return outcomes(records), {
        record.id: run_result(folder / "runs" / record.id)[2:] for record in records
    }


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_ended_at_a_random_moment(command, whole, tmp_path, how):
    expected, seconds = whole
    for number, moment in enumerate(moments(1)):
        folder, log = tmp_path / f"study-{number}", tmp_path / f"study-{number}.log"
        process = start([*command, folder], log)
        code = ended_after(process, moment * seconds, how)
        assert code in (0, -how, 130)
        with suppress(ProcessLookupError):  # the workers too, as a machine that is switched off
            os.killpg(process, signal.SIGKILL)
        said(log)
        assert end(start([*command, folder], log)) == 0, log.read_text()
        said(log)
        assert found(folder) == expected, f"after {moment * seconds:.2f} s"
