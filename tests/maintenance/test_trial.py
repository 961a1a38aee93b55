"""Tests with other versions than the fixed ones, in a project with one dependency."""

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import trial
from environments import SECONDS_TO_STOP
from installation import installation_failure
from maintenance.toy import BROKEN, GOOD, installed_by_make, wheel

OLDER_NAMES = """
import warnings

def hello():
    warnings.warn("hello() is deprecated", FutureWarning, stacklevel=2)
    warnings.warn("say good day", UserWarning)
    return "hello"

def goodbye():
    raise NotImplementedError("say farewell")
"""
MORE_TESTS = """
import greeting

def test_goodbye():
    assert greeting.goodbye() == "goodbye"

def test_other():
    assert [1] == [2]
"""


def result(project, kind="latest"):
    return json.loads((project.root / f"runs/{kind}.json").read_text())


def add_test(project, name, code):
    (project.root / "tests" / name).write_text(code)


def test_a_broken_release_is_named_and_does_not_reach_the_fixed_versions(toy, releases, capsys):
    wheel(releases, "greeting", "2.0", BROKEN)
    assert installed_by_make(toy) == "1.0"
    assert trial.main(["latest"], toy) == 1
    row = "| greeting | 1.0 → 2.0 | RuntimeError: no greetings any more | 1 | tests/test_"
    assert row in capsys.readouterr().out
    assert row in (toy.root / "runs/latest.md").read_text()


def test_workers_report_failures_warnings_and_files_that_cannot_be_imported(toy, releases):
    wheel(releases, "greeting", "1.1", OLDER_NAMES)
    add_test(toy, "test_more.py", MORE_TESTS)
    add_test(toy, "test_missing.py", "from greeting import farewell")
    strict = toy.root / "pyproject.toml"
    strict.write_text(strict.read_text() + 'filterwarnings = ["error"]\n')
    project = dataclasses.replace(toy, suites=(("tests", "--numprocesses=1"),))
    assert trial.main(["latest"], project) == 1
    found = result(toy)
    missing, goodbye, other = found["broken"]
    assert (missing["library"], missing["example"]) == ("greeting", "tests/test_missing.py")
    assert missing["what"].startswith("ImportError: cannot import name 'farewell' from 'greeting'")
    assert goodbye["library"] == "greeting"
    assert goodbye["what"] == "NotImplementedError: say farewell"
    assert other["library"] == "hiddenkey/tests"
    assert other["what"] == "AssertionError: assert [1] == [2]"
    assert [(row["library"], row["what"]) for row in found["warnings"]] == [
        ("greeting", "UserWarning: say good day"),
        ("hiddenkey/tests", "FutureWarning: hello() is deprecated"),
    ]
    assert found["tests"] == 3


def test_a_library_that_keeps_pytest_from_starting_is_named(toy, releases):
    wheel(releases, "greeting", "2.0", BROKEN)
    add_test(toy, "conftest.py", "import greeting\n")
    assert trial.main(["latest"], toy) == 1
    (row,) = result(toy)["broken"]
    assert (row["library"], row["what"]) == ("greeting", "RuntimeError: no greetings any more")


def test_the_oldest_versions_are_the_lower_bounds(toy, releases):
    wheel(releases, "greeting", "2.0", BROKEN)
    assert trial.main(["oldest"], toy) == 0
    assert result(toy, "oldest")["versions"]["installed"]["greeting"] == "1.0"


def test_newest_versions_leave_to_pip_what_is_neither_held_nor_a_file(toy):
    toy.constraints.write_text("torch==2\ngreeting==1.0\n# Read as files:\ncorpus==1\n")
    project = dataclasses.replace(toy, held=("torch",))
    given = trial.given_versions(project, "latest", {})
    assert given == {"torch": "2", "corpus": "1"}
    given = trial.given_versions(project, "latest", {"torch": "newest", "greeting": "1.1"})
    assert given == {"greeting": "1.1", "corpus": "1"}
    assert trial.given_versions(project, "oldest", {}) == {"greeting": "1.0", "corpus": "1"}


def test_lower_bounds_that_contradict_each_other_are_a_row(toy, releases, capsys):
    pyproject = toy.root / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("dev = []", 'dev = ["manners>=3"]'))
    makefile = toy.root / "Makefile"
    makefile.write_text(makefile.read_text().replace(") greeting", ") greeting manners"))
    wheel(releases, "manners", "3", GOOD, needs="greeting>=1.5")
    wheel(releases, "greeting", "1.5", GOOD)
    assert trial.main(["oldest"], toy) == 1
    (row,) = result(toy, "oldest")["broken"]
    assert (row["library"], row["version"]) == ("greeting", "1.0")
    assert "manners 3 depends on greeting>=1.5" in row["what"]
    assert row["example"] == "installation"
    assert "0 tests ran" in capsys.readouterr().out


def test_a_time_limit_keeps_what_was_found(toy, capsys):
    add_test(toy, "test_a.py", "def test_first():\n    assert 1 > 2\n")
    slow = "import time\n\ndef test_slow():\n    time.sleep(300)\n"
    add_test(toy, "test_b.py", slow)
    start = time.monotonic()
    assert trial.main(["latest", "--minutes", "0.15"], toy) == 1
    assert time.monotonic() - start < 60
    assert "Incomplete: stopped after 0 minutes, 1 tests ran." in capsys.readouterr().out
    (row,) = result(toy)["broken"]
    assert row["example"] == "tests/test_a.py::test_first"


TERMINATED = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from environments import Environment, stop_when_terminated
from project import THIS

stop_when_terminated()
log = Path(sys.argv[2])
command = [sys.executable, "-c", "import time; print('started', flush=True); time.sleep(300)"]
Environment(THIS, log.parent, log)._run(command)
"""


def test_a_termination_stops_what_runs_even_in_the_background(tmp_path):
    log = tmp_path / "log"
    log.touch()
    scripts = str(Path(trial.__file__).parent)
    command = shlex.join([sys.executable, "-c", TERMINATED, scripts, str(log)])
    shell = subprocess.Popen(["sh", "-c", f"{command} & echo $!; wait $!"], stdout=subprocess.PIPE)
    number = int(shell.stdout.readline())
    while "\nstarted" not in log.read_text():
        time.sleep(0.05)
    os.kill(number, signal.SIGTERM)
    start = time.monotonic()
    assert shell.wait(60) == 128 + signal.SIGTERM
    assert time.monotonic() - start < SECONDS_TO_STOP, "an interrupt was enough"
    assert "KeyboardInterrupt" in log.read_text()
    shell.stdout.close()


@pytest.mark.parametrize(
    ("output", "library", "version", "what"),
    [
        (
            "ERROR: Could not find a version that satisfies the requirement torch==9 (from"
            " versions: 2.6)\nERROR: No matching distribution found for torch==9\n",
            "torch", "9", "ERROR: Could not find a version that satisfies the requirement torch==9",
        ),
        (
            "ERROR: Cannot install b and peft==0.21.2 because these package versions have"
            " conflicting dependencies.\n\nThe conflict is caused by:\n    peft 0.21.2 depends on"
            " torch>=9\n    The user requested (constraint) torch==2\n\nTo fix this you could\n",
            "torch", "2", "peft 0.21.2 depends on torch>=9; The user requested (constraint)",
        ),
        (
            "The conflict is caused by:\n  accelerate 1 depends on pyyaml\n"
            "  hub 1 depends on PyYAML<8.0 and >5.4; extra == 'x'\n"
            "  trl 1.16.0 depends on pyyaml>=6.0.1\n"
            "  The user requested (constraint) pyyaml==6\n",
            "pyyaml", "6",
            "trl 1.16.0 depends on pyyaml>=6.0.1; The user requested (constraint) pyyaml==6",
        ),
        (
            "ERROR: Cannot install a and b==2\nThe conflict is caused by:\n  b 2 depends on a<1\n",
            "b", "2", "b 2 depends on a<1",
        ),
        ("make: *** No rule to make target 'install'.\n", "pip", "", "make: *** No rule to make"),
    ],
)  # fmt: skip
def test_a_failed_installation_says_which_versions_are_to_blame(output, library, version, what):
    row = installation_failure(output)
    assert (row.library, row.version) == (library, version)
    assert row.what.startswith(what)
