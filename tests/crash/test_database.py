"""A comparison whose database server is restarted, or stays away."""

import time

import pytest

from crash.children import MOMENTS, end, moments, said, start
from crash.studies import compare, found, undisturbed
from hiddenkey.lab.queue.storage import outlast_outages

pytestmark = pytest.mark.skipif(not MOMENTS, reason="make crash runs it")


@pytest.fixture(scope="module")
def plan(postgres, tiny_model, tmp_path_factory):
    """Arguments with a study's name; a study of its own for each."""

    def plan(study):
        folder = tmp_path_factory.mktemp("data")
        return compare(folder, tiny_model, workers=2, storage=postgres, study=study)

    return plan


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    command = compare(tmp_path_factory.mktemp("data"), tiny_model, workers=2)
    return undisturbed(command, tmp_path_factory.mktemp("whole") / "study")


def begun(command, folder, log, **given):
    """Start a command, and wait until it trains."""
    process, until = start([*command, folder], log, **given), time.monotonic() + 60
    while not list(folder.glob("runs/*")):
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.02)
    return process


def test_it_outlasts_a_restart(plan, whole, restart_postgres, tmp_path):
    expected, seconds = whole
    for number, moment in enumerate(moments(1)):
        folder, log = tmp_path / f"study-{number}", tmp_path / f"study-{number}.log"
        process = begun(plan(f"restarted-{number}"), folder, log)
        time.sleep(moment * seconds / 2)
        restart_postgres(4 * moment)
        assert end(process) == 0, log.read_text()
        said(log)
        assert same(found(folder), expected)


def test_it_gives_up_in_one_line_and_loses_nothing(plan, whole, postgres_server, tmp_path):
    _, call, where = postgres_server
    command, folder, log = plan("away"), tmp_path / "study", tmp_path / "study.log"
    process = begun(command, folder, log, prepare=lambda: wait_at_most(3))
    call("pg_ctl", *where, "-m", "immediate", "-w", "stop")
    started = time.monotonic()
    assert end(process) == 2
    took = time.monotonic() - started
    call("pg_ctl", *where, "-w", "start")
    assert 3 < took < 40
    last = said(log).splitlines()[-1]
    assert last.startswith("hiddenkey compare: error: storage must be a database that can be")
    assert end(start([*command, folder], log)) == 0, log.read_text()
    said(log)
    assert same(found(folder), whole[0])


def wait_at_most(seconds):
    outlast_outages.__defaults__ = (seconds,)


def same(ours, theirs):
    """Equal by what was found: runs on other files have other names."""
    return [sorted(map(repr, part.values())) for part in ours] == [
        sorted(map(repr, part.values())) for part in theirs
    ]
