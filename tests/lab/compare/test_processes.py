"""Several processes on one study: killed, restarted, side by side."""

import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from hiddenkey.lab.evidence.record import read_records
from lab.compare.driver import begin, outcomes, run_here

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def join(*processes, seconds=120):
    for process in processes:
        process.join(seconds)
        assert process.exitcode == 0


def checkpoints(plan):
    return list(Path(plan.output).glob("runs/*/checkpoints/*"))


def last_write(plan):
    """When a run wrote a file last."""
    times = []
    for path in Path(plan.output).glob("runs/**/*"):
        with suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times, default=0.0)


def test_killed_five_times_at_random_it_ends_like_an_undisturbed_one(plan, start, wait_for):
    plan = replace(plan, rates=(0.1, 0.3), common={**plan.common, "max_steps": 12})
    plan = replace(plan, common={**plan.common, "evaluations": 6})
    whole = outcomes(run_here(plan, output=plan.output + "-whole").records())
    generator = random.Random(4)
    for _ in range(5):
        before = last_write(plan)
        process = start(plan)
        wait_for(lambda: last_write(plan) > before)  # noqa: B023
        process.join(generator.uniform(0, 0.6))
        assert process.is_alive()
        process.kill()
        process.join()
    join(start(plan))
    records = read_records(Path(plan.output))
    assert outcomes(records) == whole
    assert 2 <= sum(record.attempts - 1 for record in records) <= 5, "kills that hit a run"


def test_two_processes_share_the_runs_and_the_dead_ones_are_taken_over(plan, start, wait_for):
    plan = replace(plan, seeds=(0, 1, 2))
    first, second = start(plan), start(plan)
    wait_for(lambda: checkpoints(plan))
    first.kill()
    join(second)
    records = read_records(Path(plan.output))
    assert len(records) == 6
    assert {record.status for record in records} == {"finished"}
    assert sum(record.attempts for record in records) <= 7, "only the killed run was begun twice"


def test_a_process_that_stands_still_is_taken_over_and_gives_way(plan, start, wait_for):
    plan = replace(plan, methods=("lora",), seeds=(0,), common={**plan.common, "max_steps": 40})
    still = start(plan)
    wait_for(lambda: checkpoints(plan))
    os.kill(still.pid, signal.SIGSTOP)
    other = start(plan)  # it waits for the lock: two must not train in one folder
    other.join(4.5)
    assert other.is_alive()
    os.kill(still.pid, signal.SIGCONT)
    join(still, other)
    (record,) = read_records(Path(plan.output))
    assert record.status == "finished"


def test_a_trial_taken_without_a_sign_of_life_does_not_stay_running(plan):
    plan = replace(plan, methods=("lora",), seeds=(0,))
    coordinator = begin(plan)
    coordinator.advance()
    study = coordinator.studies[plan.name]
    study._thread_local.in_optimize_loop = True  # a worker that is killed right after taking it
    study.ask()
    study._thread_local.in_optimize_loop = False
    until = time.monotonic() + 30
    while not any(trial.state.name == "WAITING" for trial in study.get_trials()):
        assert time.monotonic() < until
        coordinator.advance()
        time.sleep(0.2)
    assert run_here(plan).records()[0].status == "finished"
