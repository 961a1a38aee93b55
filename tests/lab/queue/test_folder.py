"""Locks of jobs: one holder at a time among threads and processes, freed whatever ends a holder."""

import subprocess
import sys
import threading
import time

import pytest

from hiddenkey.lab.queue.folder import WorkFolder

HOLD = """
import sys, time
from pathlib import Path
from hiddenkey.lab.queue.folder import WorkFolder

with WorkFolder(Path(sys.argv[1])).lock(sys.argv[2]):
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def folder(tmp_path):
    folder = WorkFolder(tmp_path)
    folder.prepare()
    return folder


def hold_elsewhere(folder, key, seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.path), key, str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_asking_for_a_lock_leaves_no_file(folder):
    assert folder.is_free("job")
    assert not (folder.path / "locks" / "job").exists()


def test_locks_of_different_jobs_are_independent(folder):
    with folder.lock("a"), folder.lock("b"):
        assert [folder.is_free(key) for key in "abc"] == [False, False, True]
    assert [folder.is_free(key) for key in "abc"] == [True, True, True]


def test_a_lock_is_freed_when_its_work_fails(folder):
    with pytest.raises(ZeroDivisionError), folder.lock("job"):
        raise ZeroDivisionError
    assert folder.is_free("job")


def test_a_killed_process_frees_its_lock(folder):
    with hold_elsewhere(folder, "job", 600) as process:
        assert not folder.is_free("job")
        assert folder.is_free("other")
        process.kill()
    with folder.lock("job"):
        assert not folder.is_free("job")


def test_a_lock_waits_for_another_process(folder):
    with hold_elsewhere(folder, "job", 1.0) as process:
        with folder.lock("job"):
            assert not folder.is_free("job")
        assert process.wait(10) == 0


def test_of_many_threads_one_holds_a_lock(folder):
    holders, most = [], []

    def work():
        with folder.lock("job"):
            holders.append(1)
            most.append(len(holders))
            time.sleep(0.01)
            holders.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1] * 6
