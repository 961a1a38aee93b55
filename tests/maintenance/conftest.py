"""The scripts of maintenance/, and a project with one dependency whose wheels lie in a folder."""

import sys
import sysconfig
from pathlib import Path

import pytest

from maintenance.toy import GOOD, MAKEFILE, PYPROJECT, TEST, WHERE, wheel

FOLDER = Path(__file__).parents[2] / "maintenance"
sys.path.insert(0, str(FOLDER))


@pytest.fixture
def releases(tmp_path, monkeypatch):
    """A folder of wheels that is all that pip and uv know of."""
    folder = tmp_path / "releases"
    folder.mkdir()
    wheel(folder, "greeting", "1.0", GOOD)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    return folder


@pytest.fixture
def toy(tmp_path, releases):
    """A project with one dependency, which is fixed at its first release, and one test."""
    from project import Project

    root = tmp_path / "toy"
    (root / "tests").mkdir(parents=True)
    packages = sysconfig.get_path("purelib")
    files = {
        "pyproject.toml": PYPROJECT,
        "Makefile": MAKEFILE.format(packages=packages, where=WHERE),
        "constraints.txt": "greeting==1.0\n",
        "tests/test_greeting.py": TEST,
    }
    for file, text in files.items():
        (root / file).write_text(text)
    return Project(root, build_tools=(), held=(), suites=(("tests",),))
