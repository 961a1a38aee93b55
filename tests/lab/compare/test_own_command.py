"""A command of the user's own, run as the jobs of a comparison: results, failures, interrupts."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from hiddenkey.cli.main import main
from hiddenkey.lab.compare import guard
from hiddenkey.lab.compare.command_outline import CommandOutline
from hiddenkey.lab.compare.coordinator import Coordinator
from hiddenkey.lab.compare.launched import progress
from hiddenkey.lab.evidence.record import read_records
from hiddenkey.lab.plans.command import CommandRun
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.queue.live import Doing
from hiddenkey.lab.report import tabulate
from hiddenkey.lab.report.commands import run_command
from lab.compare.driver import OPEN, finish, worker_for

SCRIPT = """
import json, os, pathlib, sys, time
seed, method, output = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
with open(sys.argv[4], "a") as log:
    print(seed, method, len(list(output.glob("*"))), file=log)
(output / "begun").touch()
if method == "fails" and not pathlib.Path(sys.argv[4] + ".mended").exists():
    print("reading the data")
    sys.exit("no such column")
if method == "nan":
    print("hiddenkey: step=10 eval_accuracy=0.5\\nhiddenkey: step=20 eval_accuracy=nan")
if method == "recovers":
    print("hiddenkey: step=10 eval_accuracy=nan eval_f1=inf")
    print("hiddenkey: step=20 eval_accuracy=0.5 eval_f1=nan")
if method == "killed":
    os.kill(os.getpid(), 9)
if method == "silent":
    sys.exit()
if method == "sleeps":
    time.sleep(600)
gain = 0.02 + 0.001 * seed if method == "better" else 0.0
history = [{"step": s, "eval_accuracy": 0.7 + 0.01 * seed + s / 1000 + gain} for s in (10, 20)]
json.dump({"log_history": history}, open(output / "trainer_state.json", "w"))
"""


@pytest.fixture
def plan(tmp_path):
    """A plan whose command notes in ``calls`` each start: seed, method and files that it found."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    return Plan(
        command=f"{sys.executable} {script} {{seed}} {{method}} {{output}} {tmp_path / 'calls'}",
        metric="eval_accuracy",
        methods=("lora", "better"),
        seeds=(0, 1, 2),
        output=str(tmp_path / "compare"),
        heartbeat=1,
        grace=3,
        report=False,
    )


def begin(plan):
    OPEN.append(Coordinator(plan, CommandOutline(plan)))
    return OPEN[-1]


def run(plan, **changes):
    plan = dataclasses.replace(plan, **changes)
    coordinator = begin(plan)
    return finish(coordinator, worker_for(coordinator, plan.local_settings()))


def calls(plan):
    path = Path(plan.output).with_name("calls")
    return path.read_text().splitlines() if path.exists() else []


def test_its_runs_become_records_and_a_verdict(plan):
    records = run(plan).records()
    assert sorted(calls(plan)) == [f"{s} {m} 0" for s in range(3) for m in ("better", "lora")]
    found = {(r.options["method"], r.options["seed"]): r.result for r in records}
    assert found["better", 2].metrics["accuracy"].last == pytest.approx(0.762)
    assert found["better", 2].metrics["accuracy"].best_step == 20
    assert found["lora", 1].steps == 20
    assert [line["step"] for line in records[0].metrics] == [10, 20]
    (table,) = tabulate(read_records(Path(plan.output))).scopes[0].tasks
    assert table.task.label == "train"
    assert table.verdict.answer == "better"


def test_a_finished_command_is_not_started_again(plan):
    run(plan)
    assert begin(plan).advance().finished
    run(plan, seeds=(0, 1, 2, 3))
    assert len(calls(plan)) == 8


def test_another_metric_is_read_from_what_is_there(plan):
    wrong = run(plan, metric="eval_acc").records()
    assert all("did you mean 'eval_accuracy'" in record.reason for record in wrong)
    right = run(plan).records()
    assert all(record.result for record in right)
    assert len(calls(plan)) == 6
    tables = tabulate(read_records(Path(plan.output)))
    assert tables.failures == ()
    assert [configuration.label for configuration in tables.scopes[0].configurations] == [
        "lora",
        "better",
    ]


def test_a_failure_is_told_by_the_last_line_and_can_be_run_again(plan):
    plan = dataclasses.replace(plan, methods=("lora", "fails"), seeds=(0,))
    failed = run(plan).records()[1]
    assert failed.reason == "no such column"
    assert "status 1\nreading the data" in failed.error
    Path(plan.output).with_name("calls.mended").touch()
    assert all(record.result for record in run(plan, retry_failed=True).records())
    assert calls(plan)[-1] == "0 fails 0", "what a failed command left would be taken for results"


def test_a_command_that_resumes_finds_what_it_left(plan):
    plan = dataclasses.replace(plan, methods=("lora", "fails"), seeds=(0,), resumes=True)
    run(plan)
    Path(plan.output).with_name("calls.mended").touch()
    run(plan, retry_failed=True)
    assert calls(plan)[-1] == "0 fails 1"


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("nan", "the training diverged: accuracy is nan at step 20"),
        ("silent", "left no number"),
        ("killed", "the command was ended by SIGKILL (status 137) and printed nothing"),
        ("sleeps", "took longer than 8 seconds"),
    ],
)
def test_a_run_without_a_result_says_why(plan, method, reason):
    limit = 8 if method == "sleeps" else None  # a busy machine starts Python in seconds
    changed = {"methods": ("lora", method), "seeds": (0,), "time_limit": limit}
    lora, other = run(plan, **changed).records()
    assert lora.result
    assert other.result is None
    assert reason in other.reason


def test_a_changed_command_is_refused_in_the_same_folder(plan):
    run(plan, seeds=(0,))
    with pytest.raises(ValueError, match="command must stay what it is in this folder"):
        begin(dataclasses.replace(plan, command=f"{plan.command} --more"))


def test_so_is_a_script_that_was_edited_meanwhile(plan):
    run(plan, seeds=(0,))
    script = Path(plan.output).with_name("train.py")
    script.write_text(SCRIPT + "\n# edited")
    with pytest.raises(ValueError, match=r"file \S+train.py must stay what it is in this folder"):
        begin(plan)
    run(plan, seeds=(0,), accept_changes=True)
    assert len(calls(plan)) == 4


def children(name):
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(name in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def test_nothing_of_a_command_outlives_the_one_that_started_it(tmp_path, wait_for):
    """The guard ends a command with its children when its starter is killed, however hard."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)  # ' + __file__])\n"
        "time.sleep(600)\n"
    )
    starter = (
        "import os, subprocess, sys, time\n"
        "reading, writing = os.pipe()\n"
        f"subprocess.Popen([sys.executable, '-I', {guard.__file__!r}, str(reading),"
        f" sys.executable, {str(script)!r}], pass_fds=(reading,), start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", starter])
    wait_for(lambda: len(children(str(script))) == 4)  # starter, guard, command and its child
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not children(str(script)))


def test_an_interrupted_comparison_ends_its_command_and_goes_on(plan, wait_for):
    words = ["compare", "--command", plan.command, "--metric", "eval_accuracy", "--seeds", "0"]
    words += ["--methods", "lora", "sleeps", "--output", plan.output]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = subprocess.Popen(
        [sys.executable, "-m", "hiddenkey.cli.main", *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_for(lambda: len(calls(plan)) == 2)
    command.send_signal(signal.SIGINT)
    assert "stopped" in command.communicate(timeout=60)[0]
    assert command.returncode == 130
    started = time.monotonic()
    wait_for(lambda: not children(f"sleeps {plan.output}"), seconds=15)
    assert time.monotonic() - started < 15
    records = run(plan, methods=("lora", "sleeps"), seeds=(0,), time_limit=1).records()
    assert [bool(record.result) for record in records] == [True, False]
    assert [call.split()[1] for call in calls(plan)] == ["lora", "sleeps", "sleeps"]


def test_the_dry_run_shows_what_would_start(plan, capsys):
    words = ["compare", "--command", plan.command, "--metric", "eval_accuracy", "--dry-run"]
    assert main([*words, "--methods", "lora", "better", "--output", plan.output]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "10 runs are left; their time is known when the first is done" in shown
    assert "train.py 0 lora OUTPUT/runs" not in shown
    assert "train, better, seed 4 missing" in shown
    assert not Path(plan.output).exists()
    assert calls(plan) == []


def test_equal_seeds_that_did_not_start_alike_are_told(plan):
    run(plan)
    folder = Path(plan.output)
    for path in folder.glob("records/*.json"):
        values = json.loads(path.read_text())
        seed, method = values["options"]["seed"], values["options"]["method"]
        weights = f"{seed} {method if seed == 1 else ''}"
        values["observed"] = {"weights": weights, "batches": str(seed)}
        path.write_text(json.dumps(values))
    (table,) = tabulate(read_records(folder)).scopes[0].tasks
    told = [note for note in table.notes if "same" in note]
    assert len(told) == 1
    assert told[0].startswith("better did not start from the same weights as lora at seed 1:")


def test_a_running_command_says_how_far_it_is(plan, tmp_path):
    run = CommandRun(dataclasses.replace(plan.command_settings()[0], seed=1), "")
    folder = tmp_path / "observed"
    assert progress(tmp_path, run, "x") == Doing("x")
    folder.mkdir()
    (folder / "attached.json").write_text('{"steps": 40}')
    assert progress(tmp_path, run, "x") == Doing("x", 0, 40)
    lines = ['{"step": 10, "eval_accuracy": 0.5}', '{"step": 20, "loss": 1.0}']
    (folder / "log.jsonl").write_text("\n".join(lines))
    assert progress(tmp_path, run, "x") == Doing("x", 20, 40, "eval_accuracy 0.5000")
    (folder / "log.jsonl").write_text(lines[0] + '\n{"step": 2')
    assert progress(tmp_path, run, "x") == Doing("x", 0, 40)


TRAINER = """
import csv, sys
from transformers import (
    AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed
)
model, data, seed, output = sys.argv[1:]
set_seed(int(seed))
tokenizer = AutoTokenizer.from_pretrained(model)
rows = [
    {**tokenizer(row["text"]), "labels": int(row["label"] == "good")}
    for row in csv.DictReader(open(data))
]
arguments = TrainingArguments(
    output, max_steps=3, per_device_train_batch_size=8, eval_strategy="steps", eval_steps=3,
    seed=int(seed), report_to="none", use_cpu=True, save_strategy="no",
)
trainer = Trainer(
    AutoModelForSequenceClassification.from_pretrained(model), arguments,
    train_dataset=rows, eval_dataset=rows[:8], processing_class=tokenizer,
)
trainer.train()
"""


def test_a_trainers_script_is_judged_by_the_weights_that_are_asked_for(plan, tiny_options):
    """Both train alike, for no example comes twice: only the weights that are evaluated differ."""
    script = Path(plan.output).with_name("train.py")
    script.write_text(TRAINER)
    words = f"{script} {tiny_options.model} {tiny_options.train_file} {{seed}} {{output}}"
    last, averaged = run(
        plan,
        command=f"{sys.executable} {words}",
        metric="eval_loss",
        methods=("lora", "temporal"),
        seeds=(0,),
        common={"inference": "average", "average_part": 1.0},
        per_method={"lora": {"inference": "last"}},
    ).records()
    assert last.result, last.error
    assert averaged.result, averaged.error
    for name in ("weights", "batches"):
        assert last.observed[name] == averaged.observed[name]
    assert "inference" not in last.options
    assert averaged.options["inference"] == "average"
    assert averaged.result.eval_loss.last > last.result.eval_loss.last  # the mean of it lags behind
    flags = "--method temporal --inference average --average-part 1.0 --"
    assert flags in run_command(averaged.options)


def test_a_trainers_script_gets_the_method_and_starts_alike(plan, tiny_options):
    """The script knows nothing of any method, and saves no metric by itself."""
    script = Path(plan.output).with_name("train.py")
    script.write_text(TRAINER)
    words = f"{script} {tiny_options.model} {tiny_options.train_file} {{seed}} {{output}}"
    changed = {"methods": ("as-is", "hiddenkey"), "baseline": "as-is", "seeds": (0,)}
    plain, hiddenkey = run(
        plan, command=f"{sys.executable} {words}", metric="eval_loss", **changed
    ).records()
    assert plain.result, plain.error
    assert hiddenkey.result, hiddenkey.error
    for name in ("weights", "batches", "model"):
        assert plain.observed[name] == hiddenkey.observed[name]
    assert plain.observed["consistency_loss"] is None
    assert hiddenkey.observed["consistency_loss"] > 0
    assert all(0 < rate < 0.4 for rate in hiddenkey.observed["sites"].values())
    assert plain.observed["sites"] == {}
    assert plain.result.main_metric == "loss"
    assert plain.result.eval_loss.last == plain.result.metrics["loss"].last
    assert plain.result.steps == 3
    assert plain.result.eval_examples == 8


def test_a_metric_that_was_no_number_for_a_while_is_missing_there(plan):
    """A record holds plain JSON, which has no NaN."""
    lora, other = run(plan, methods=("lora", "recovers"), seeds=(0,)).records()
    assert other.result.metrics["accuracy"].best == 0.5
    assert [line["eval_accuracy"] for line in other.metrics] == [None, 0.5]
    assert other.result.metrics["f1"].best is None
    assert {each.id for each in read_records(Path(plan.output))} == {lora.id, other.id}
