"""Which warnings fail a test: those that this project's own code causes, and no others."""

import json
import re
import subprocess
import sys
import tomllib

import pytest

from project import THIS

OPTIONS = tomllib.loads((THIS.root / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "pytest"
]["ini_options"]
TESTS = THIS.root / "tests"

WARN = """
import warnings

def call():
    warnings.warn("an old name", FutureWarning, stacklevel={})
"""
TEST = """
import threading

import pytest

from hiddenkey.inner import module
from lab import helper
import library
import library_of_callers


def test_own_module():
    module.call()

def test_shared_module():
    helper.call()

def test_call_of_something_deprecated():
    library_of_callers.call()

def test_exception_that_nobody_sees():
    class Thing:
        def __del__(self):
            raise ValueError
    Thing()

def test_exception_in_a_thread():
    thread = threading.Thread(target=int, args=("x",))
    thread.start()
    thread.join()

def test_file_left_open():
    open(__file__).read(1)

def test_other_library():
    library.call()
"""
FILES = {
    "src/hiddenkey/__init__.py": "",
    "src/hiddenkey/inner/module.py": WARN.format(1),
    "tests/lab/helper.py": WARN.format(1),
    "tests/lab/test_all.py": TEST,
    "src/library.py": WARN.format(1),
    "src/library_of_callers.py": WARN.format(2),
}


@pytest.fixture
def project(tmp_path):
    """A project with this one's options of pytest."""
    for file, text in FILES.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    lists = ("pythonpath", "filterwarnings")
    lines = [f"{name} = {json.dumps(OPTIONS[name])}" for name in lists]
    lines.append('addopts = "--import-mode=importlib"')
    text = "\n".join(["[tool.pytest.ini_options]", *lines])
    (tmp_path / "pyproject.toml").write_text(text)
    return tmp_path


def test_only_another_librarys_own_warning_passes(project):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rfp"],
        cwd=project, capture_output=True, text=True, check=False,
    )  # fmt: skip
    ended = re.findall(r"^(PASSED|FAILED) \S+::(\w+)", done.stdout, re.MULTILINE)
    names = re.findall(r"^def (test_\w+)", TEST, re.MULTILINE)
    assert {name for outcome, name in ended if outcome == "PASSED"} == {"test_other_library"}
    assert {name for _, name in ended} == set(names)
    assert "library.py:5: FutureWarning: an old name" in done.stdout, "it is reported"


def fails_on_warnings_of(module):
    filters = [line.split(":") for line in OPTIONS["filterwarnings"]]
    return any(re.match(parts[3], module) for parts in filters if len(parts) > 3 and not parts[2])


@pytest.mark.parametrize("file", sorted(TESTS.rglob("*.py")), ids=lambda file: file.name)
def test_each_file_of_the_tests_is_covered_by_either_name(file):
    parts = file.relative_to(TESTS).with_suffix("").parts
    assert fails_on_warnings_of(".".join(("tests", *parts)))
    if file.stem != "conftest" and not file.stem.startswith("test_"):
        assert fails_on_warnings_of(".".join(parts))


@pytest.mark.parametrize("module", ["hiddenkeys", "labels.x", "transformers.models", "peft"])
def test_other_libraries_are_not_covered(module):
    assert not fails_on_warnings_of(module)
