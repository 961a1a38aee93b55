"""The command itself: its processes and what it shows."""

import codecs
import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from hiddenkey.cli.main import main
from lab.compare.driver import run_here
from screen import Screen, open_terminal, read_all

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def plan_file(plan, tmp_path):
    """Write a plan of one seed and two workers; on two cores each has one thread."""

    def write(**changes):
        given = dataclasses.asdict(dataclasses.replace(plan, seeds=(0,), workers=2))
        given = {key: list(v) if isinstance(v, tuple) else v for key, v in given.items()}
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump({**given, **changes}))
        return str(path)

    return write


def records(plan):
    paths = Path(plan.output).glob("records/*.json")
    return [json.loads(path.read_text()) for path in paths]


def test_a_plan_is_run_told_and_gone_on_with(plan, plan_file, capsys):
    file = plan_file(per_method={"hiddenkey": {"layers": [9]}})
    assert main(["compare", file]) == 1
    shown = capsys.readouterr().out
    assert "file: no verdict can be reached" in shown
    assert "2 jobs, 0 of them done" in shown
    assert "file, lora, seed 0: accuracy best 0." in shown
    assert "failed: file, hiddenkey, seed 0:" in shown
    assert "--retry-failed" in shown
    assert f"report: hiddenkey report {plan.output} --baseline lora" in shown
    (lora,) = [record for record in records(plan) if record["status"] == "finished"]
    row = next(line for line in shown.splitlines() if line.strip().startswith("file, lora "))
    assert f"{lora['result']['metrics']['accuracy']['best']:.4f}" in row
    assert lora["environment"]["threads"] == max(1, os.cpu_count() // 2)

    assert main(["compare", file]) == 1
    again = capsys.readouterr().out
    assert "2 jobs, 2 of them done" in again
    assert row in again


def test_dry_run_lists_the_runs_and_estimates_the_time(plan, plan_file, capsys):
    file = plan_file(rates=[0.1, 0.3], seeds=[3, 4], equal_time=True)
    assert main(["compare", file, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "11 jobs" in shown
    jobs = shown.partition("what the seeds can show")[0]
    rows = [line.split() for line in jobs.splitlines() if line.strip().startswith("file,")]
    for row in rows:
        assert "cost" in row or row[-2:] == ["3", "4"]
    assert sum(row[:4] == ["file,", "hiddenkey", "rate", "0.3"] for row in rows) == 2
    assert "from a few timed steps" in shown
    assert "file: no verdict can be reached; it takes 3 seeds or more, here it is 2" in shown
    assert not Path(plan.output).exists()


def start(file):
    return subprocess.Popen(
        [sys.executable, "-m", "hiddenkey.cli.main", "compare", file],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def processes_of(command):
    """Living processes of a command's session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = entry.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == command.pid and state != "Z":
            found.append(int(entry.parent.name))
    return found


def workers_of(command):
    found = set()
    for process in processes_of(command):
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in words:
            found.add(process)
    return found


def end_all(command):
    for process in processes_of(command):
        os.kill(process, signal.SIGKILL)
    command.communicate()


def test_killed_or_stopped_it_leaves_no_process_and_goes_on(plan, plan_file, wait_for):
    common = {**plan.common, "max_steps": 200, "evaluations": 40}
    file = plan_file(common=common)

    def checkpoints():
        return set(Path(plan.output).glob("runs/*/checkpoints/*"))

    command = start(file)
    try:
        wait_for(checkpoints)
        workers = workers_of(command)
        assert len(workers) == 2
        os.kill(min(workers), signal.SIGKILL)
        wait_for(lambda: workers_of(command) - workers)  # another one takes its place
        os.kill(command.pid, signal.SIGKILL)
        command.communicate(timeout=60)
        wait_for(lambda: not processes_of(command), 10)
    finally:
        end_all(command)
    before = checkpoints()
    command = start(file)
    try:
        wait_for(lambda: checkpoints() - before)
        os.kill(command.pid, signal.SIGINT)
        _, errors = command.communicate(timeout=60)
        assert command.returncode in (130, 0), errors  # it may have come to its end meanwhile
        if command.returncode:
            assert errors.strip().endswith("hiddenkey compare: stopped")
        assert "Traceback" not in errors
        wait_for(lambda: not processes_of(command), 10)
    finally:
        end_all(command)
    found = run_here(dataclasses.replace(plan, seeds=(0,), common=common)).records()
    assert [record.reason for record in found] == ["", ""]
    assert [record.status for record in found] == ["finished", "finished"]
    assert [record.result.steps for record in found] == [200, 200]
    assert sum(record.attempts for record in found) >= 4


def test_it_ends_with_the_report(plan, plan_file, capsys):
    assert main(["compare", plan_file(report=True, seeds=[0, 1])]) == 0
    shown = capsys.readouterr().out
    assert "file, step-matched: " in shown
    page = Path(plan.output) / "report" / "report.html"
    assert f"page: {page}" in shown
    assert page.is_file()

    # the command that it ends with goes on with these runs and adds the missing seeds
    (command,) = (line for line in shown.splitlines() if "plan.yaml --seeds" in line)
    words = shlex.split(command)
    assert words == [
        *("hiddenkey", "compare", f"{plan.output}/plan.yaml", "--seeds"),
        *("0", "1", "2", "3", "4"),
    ]
    assert main([*words[1:], "--dry-run"]) == 0
    jobs = capsys.readouterr().out.partition("what the seeds can show")[0].splitlines()
    rows = [row.split() for row in jobs if row.strip().startswith("file, ")]
    assert [row[3:6] for row in rows] == [["2", "0", "3"]] * 2, "done, failed, missing"
    assert [row[-3:] for row in rows] == [["2", "3", "4"]] * 2


def test_a_terminal_shows_what_each_worker_does(plan, plan_file):
    """In a real terminal of 80 columns: lines move within a run, and say how long it takes."""
    common = {**plan.common, "max_steps": 120, "evaluations": 6}
    file = plan_file(common=common, timed_steps=0, seeds=[0, 1])
    ours, theirs = open_terminal(columns=80)
    command = subprocess.Popen(
        [sys.executable, "-m", "hiddenkey.cli.main", "compare", file],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"},
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    screen, frames = Screen(), []
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for piece in read_all(ours):
            screen.feed(decoder.decode(piece))
            frames.append([line.rstrip() for line in screen.lines[-4:]])
        assert command.wait(30) == 0
    finally:
        end_all(command)
        os.close(ours)
    steps = defaultdict(set)
    for line in (line for frame in frames for line in frame):
        assert len(line) <= 80 or not line.startswith(("jobs", "file, "))
        if found := re.match(r"(file, \w+, seed \d).* (\d+)/120(.*)", line):
            steps[found[1]].add(int(found[2]))
    # on a busy machine a look may miss a run, but not all of them
    assert any(len(seen) > 2 for seen in steps.values()), steps
    bars = [line for frame in frames for line in frame if line.startswith("jobs")]
    assert all(" left" not in line for line in bars if " 0/4" in line)
    assert any(re.search(r"[123]/4 +about \d+ (s|min) left", line) for line in bars)
    text = "\n".join(screen.lines)
    assert text.count("accuracy best") == 4
    assert "waits for a job" not in text
