"""Worker processes: the functions here are Python's own, which a fresh process can import."""

import math
import operator
import os
import signal
import time

import pytest

from model_tables.isolated import run_jobs


def outcomes(function, jobs, **settings):
    found = run_jobs(function, jobs, **{"workers": 2, "limit": 30, **settings})
    return {outcome.job: outcome for outcome in found}


def test_each_call_has_its_outcome():
    found = outcomes(operator.add, [(1, 2), (3, 4), (5, "x")])
    assert (found[1, 2].ending, found[1, 2].value) == ("returned", 3)
    assert found[3, 4].value == 7
    assert found[5, "x"].ending == "raised"
    assert found[5, "x"].value.startswith("TypeError: unsupported operand")


def test_a_process_that_dies_costs_its_job_alone():
    found = outcomes(os._exit, [(3,), (4,), (5,)])
    assert {job: outcome.value for job, outcome in found.items()} == {
        (code,): f"the process ended with status {code}" for code in (3, 4, 5)
    }
    assert {outcome.ending for outcome in found.values()} == {"crashed"}


def test_a_signal_is_named():
    (outcome,) = outcomes(signal.raise_signal, [(signal.SIGKILL,)]).values()
    assert (outcome.ending, outcome.value) == ("crashed", "the process was ended by SIGKILL")


def test_a_process_that_hangs_is_ended():
    begun = time.monotonic()
    found = outcomes(time.sleep, [(3600,), (0,), (0.01,)], limit=2)
    assert time.monotonic() - begun < 60
    assert found[3600,].ending == "timed out"
    assert found[3600,].value == "no result after 2 seconds"
    assert {found[0,].ending, found[0.01,].ending} == {"returned"}


def test_running_out_of_memory_costs_its_job_alone():
    found = outcomes(bytearray, [(2**40,), (3,)], workers=1)
    assert (found[2**40,].ending, found[2**40,].value) == ("raised", "MemoryError: ")
    assert found[3,].value == bytearray(3)


def test_a_worker_that_cannot_start():
    with pytest.raises(RuntimeError, match="a worker process could not be started"):
        list(run_jobs(math.sqrt, [(4.0,)], workers=1, limit=5, prepare=os.abort))


def test_no_process_is_left_when_the_caller_stops():
    found = run_jobs(os.getpid, [()] * 50, workers=1, limit=30)
    process = next(found).value
    found.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_nothing_to_do():
    assert outcomes(math.sqrt, []) == {}
