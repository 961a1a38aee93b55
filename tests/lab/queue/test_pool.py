"""Worker processes end with their command, also while they still import what they work with."""

import os
import signal
import subprocess
import sys
import time

import pytest

SLOW = """
import multiprocessing, os, time
from pathlib import Path

if multiprocessing.parent_process() is not None:
    Path("importing").touch()
    time.sleep(60)


def work(argument):
    pass
"""
FAILS = """
import time
from pathlib import Path


def work(argument):
    Path("importing").touch()
    try:
        time.sleep(60)
    finally:
        print(never_set)  # what a library does that no interrupt was foreseen in
"""
COMMAND = """
import sys, time
from hiddenkey.lab.queue.pool import Pool

if __name__ == "__main__":
    from slow_work import work

    with Pool(work, None, 1) as pool:
        print(pool.processes[0], flush=True)
        sys.stdin.read()
"""


@pytest.fixture(params=[SLOW])
def command(request, tmp_path):
    """A command whose worker is importing, or working, and the worker's process number."""
    (tmp_path / "slow_work.py").write_text(request.param)
    (tmp_path / "command.py").write_text(COMMAND)
    process = subprocess.Popen(
        [sys.executable, "command.py"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    worker = int(process.stdout.readline())
    with process:
        try:
            assert becomes(lambda: (tmp_path / "importing").exists())
            yield process, worker
        finally:
            process.kill()


def test_a_worker_that_imports_ends_with_a_killed_command(command):
    process, worker = command
    process.kill()
    assert becomes(lambda: not lives(worker))


def test_a_worker_that_imports_ends_on_request_without_a_word(command):
    process, worker = command
    os.kill(worker, signal.SIGINT)  # as Ctrl-C does: the command alone decides
    time.sleep(0.2)
    assert lives(worker)
    _, errors = process.communicate()  # its input ends, so it stops its pool
    assert (process.returncode, errors) == (0, "")
    assert not lives(worker)


@pytest.mark.parametrize("command", [FAILS], indirect=True)
def test_what_fails_at_an_interrupt_ends_without_a_word(command):
    process, worker = command
    _, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert not lives(worker)


def lives(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def becomes(true):
    """Whether it becomes true in less time than the import takes."""
    until = time.monotonic() + 30
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
