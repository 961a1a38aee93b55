"""``hiddenkey compare`` and ``claims``, ended at any moment and begun again, find the same."""

import os
import signal
import time
from contextlib import suppress

import pytest

from crash.children import MOMENTS, end, ended_after, moments, said, start
from crash.studies import claims, compare, found, undisturbed

pytestmark = pytest.mark.skipif(not MOMENTS, reason="make crash runs it")


@pytest.fixture(scope="module", params=["one worker", "two workers", "claims"])
def command(request, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    if request.param == "claims":
        return claims(folder, tiny_model)
    return compare(folder, tiny_model, workers=1 + (request.param == "two workers"))


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    return undisturbed(command, tmp_path_factory.mktemp("whole") / "study")


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


def test_its_coordinator_alone_is_killed(command, whole, tmp_path):
    """Its workers end by themselves, while the command that is begun again already runs."""
    expected, seconds = whole
    for number, moment in enumerate(moments(1)):
        folder, log = tmp_path / f"study-{number}", tmp_path / f"study-{number}.log"
        killed = start([*command, folder], log)
        assert ended_after(killed, moment * seconds, signal.SIGKILL) in (0, -signal.SIGKILL)
        assert end(start([*command, folder], log)) == 0, log.read_text()
        assert not is_there(killed, patience=5), "a worker outlived its coordinator"
        said(log)
        assert found(folder) == expected, f"after {moment * seconds:.2f} s"


def is_there(group, patience):
    """Whether a process of the group still lives after some seconds."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True
