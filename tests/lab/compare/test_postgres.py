"""Machines that share a PostgreSQL server; each has a folder of its own."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from hiddenkey.cli import compare
from hiddenkey.lab.evidence.record import read_records
from hiddenkey.lab.queue import jobs
from hiddenkey.lab.queue.storage import open_storage
from lab.compare.driver import begin, finish, outcomes, run_here, worker_for

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def trials_of(plan):
    storage = open_storage(plan.job_store)
    trials = optuna.load_study(study_name=plan.name, storage=storage).get_trials()
    storage.engine.dispose()
    return trials


def test_two_workers_one_killed_in_mid_trial(plan, postgres, start, wait_for):
    plan = replace(plan, seeds=(0, 1, 2))
    whole = outcomes(run_here(plan, output=plan.output + "-whole", study="whole").records())
    shared = replace(plan, storage=postgres, study="shared")
    # two machines: no folder in common, so that only the heartbeat tells who is alive
    here, there = (replace(shared, output=f"{plan.output}-{name}") for name in ("here", "there"))
    killed, other = start(here), start(there)
    wait_for(lambda: list(Path(here.output).glob("runs/*/checkpoints/*")))
    killed.kill()
    other.join(120)
    assert other.exitcode == 0
    assert outcomes(read_records(Path(there.output))) == whole
    finished = Counter(
        trial.user_attrs["job"]
        for trial in trials_of(shared)
        if trial.state == optuna.trial.TrialState.COMPLETE
    )
    assert set(finished) == set(whole)
    assert set(finished.values()) == {1}, "nothing is run twice"
    # the machine that was killed comes back, finds all done and collects the others' records
    assert outcomes(run_here(here).records()) == whole
    assert outcomes(read_records(Path(here.output))) == whole


def test_two_commands_that_queue_the_same_runs_do_them_once(plan, postgres):
    here = replace(plan, storage=postgres, study="twice")
    there = replace(here, output=plan.output + "-there")
    one, two = begin(here), begin(there)
    study = one.studies["twice"]
    for coordinator in (one, two):  # the second did not see what the first one queued
        for job in coordinator._outline.jobs({})["twice"]:
            jobs.enqueue(coordinator.studies["twice"], job, None)
    workers = [worker_for(one), worker_for(two)]
    while any(worker.take_one() for worker in workers):
        pass
    states = Counter(trial.state.name for trial in study.get_trials())
    assert states == {"COMPLETE": 4, "PRUNED": 4}
    assert len(finish(two, workers[1]).records()) == 4
    assert len(finish(one, workers[0]).records()) == 4


def test_data_may_lie_elsewhere_on_each_machine(plan, postgres, tmp_path):
    here = replace(plan, storage=postgres, study="elsewhere", methods=("lora",))
    moved = {}
    for name in ("train_file", "eval_file"):
        moved[name] = str(tmp_path / f"moved-{name}.csv")
        Path(moved[name]).write_text(Path(plan.common[name]).read_text())
    there = replace(here, common={**plan.common, **moved}, output=plan.output + "-there")
    one, two = begin(here), begin(there)
    one.advance()
    worker = worker_for(two, {"file": moved})
    for name in ("train_file", "eval_file"):
        Path(plan.common[name]).rename(tmp_path / f"gone-{name}.csv")
    records = finish(two, worker).records()
    assert {record.status for record in records} == {"finished"}
    assert len(records) == 2


def test_an_outage_of_the_server_ends_nothing(plan, postgres, restart_postgres, context, wait_for):
    plan = replace(plan, storage=postgres, study="outage", seeds=(0, 1, 2))
    whole = outcomes(run_here(plan, output=plan.output + "-whole", study="whole-too").records())
    command = context.Process(
        target=compare.run, args=(replace(plan, workers=os.cpu_count(), timed_steps=0),)
    )
    command.start()
    try:
        wait_for(lambda: list(Path(plan.output).glob("runs/*/checkpoints/*")))
        restart_postgres(2.0)
        command.join(240)
    finally:
        command.terminate()
        command.join()
    assert command.exitcode == 0
    assert outcomes(read_records(Path(plan.output))) == whole


def test_a_server_that_is_restarted_is_connected_to_anew(plan, postgres):
    plan = replace(plan, storage=postgres, study="restarted", methods=("lora",))
    coordinator = begin(plan)
    worker = worker_for(coordinator)
    coordinator.advance()
    worker.take_one()
    with coordinator._storage.engine.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()"
            " AND datname IS NOT NULL"
        )
    assert len(finish(coordinator, worker).records()) == 2
