"""What .ci/run makes of the gate and of the report, with a make that only prints."""

import os
import subprocess

import pytest

from project import THIS

MAKE = """#!/usr/bin/env bash
if [ "$1" = test ]; then
    echo '===== {passed} passed, 44 skipped, 2 warnings in 1142.08s (0:19:02) ====='
    echo '===== {failed} failed, 3 passed, 7400 deselected in 12.50s ====='
    exit {status}
fi
echo "report $*"
echo "make: *** [test-latest] Error 1" >&2
exit 1
"""


@pytest.fixture
def ci(tmp_path):
    def run(status=0, failed=0, started_seconds_ago=0):
        make = tmp_path / "bin" / "make"
        make.parent.mkdir(exist_ok=True)
        make.write_text(MAKE.format(passed=7416, failed=failed, status=status))
        make.chmod(0o755)
        script = tmp_path / "checkout" / ".ci" / "run"
        script.parent.mkdir(parents=True, exist_ok=True)
        text = (THIS.root / ".ci" / "run").read_text(encoding="utf-8")
        first, rest = text.split("\n", 1)
        script.write_text(f"{first}\nSECONDS={started_seconds_ago}\n{rest}")
        path = f"{make.parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", script], env={**os.environ, "PATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def test_a_report_that_fails_leaves_the_gates_status_and_closing_line(ci):
    done = ci()
    assert done.returncode == 0
    _, _, report = done.stdout.partition("newest releases: a report, not the gate\n")
    assert report.splitlines()[0] == "report --silent test-latest OPTIONS=--minutes 35"
    assert report.splitlines()[-1] == "7419 passed, 0 failed"
    assert "Error" not in done.stdout + done.stderr


def test_a_gate_that_fails_is_the_end(ci):
    done = ci(status=2, failed=5)
    assert done.returncode == 2
    assert "report" not in done.stdout
    assert done.stdout.splitlines()[-1] == "7419 passed, 5 failed"


@pytest.mark.parametrize(("minutes", "left"), [(50, 25), (64, 11), (66, None), (95, None)])
def test_the_report_has_the_time_that_is_left(ci, minutes, left):
    done = ci(started_seconds_ago=60 * minutes)
    assert done.returncode == 0
    assert (f"OPTIONS=--minutes {left}\n" in done.stdout) == (left is not None)
    assert ("report" in done.stdout) == (left is not None)
