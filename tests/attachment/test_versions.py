"""A version that was not tried is told once, in one sentence."""

import re
import tomllib
import warnings
from pathlib import Path

import peft
import pytest

import hiddenkey
from hiddenkey import VersionWarning
from hiddenkey.attachment import versions
from models import plain_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _nothing_was_told(monkeypatch):
    monkeypatch.setattr(versions, "_warned", set())


@pytest.mark.parametrize(
    ("version", "side"),
    [
        ("4.56.2", "older than 4.57"),
        ("4.57.0", None),
        ("5.3.1", None),
        ("5.24.9", None),
        ("5.25.0.dev0", "newer than 5.24"),
        ("10.0", "newer than 5.24"),
    ],
)
def test_a_version_lies_inside_or_on_a_side(version, side):
    assert versions.untried("transformers", version) == side


def test_attach_tells_it_once(monkeypatch):
    monkeypatch.setattr(peft, "__version__", "0.17.1")
    model = plain_model("bert")
    with pytest.warns(VersionWarning, match=r"peft 0\.17\.1 is older than 0\.18; where") as told:
        hiddenkey.attach(model, "hiddenkey")
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hiddenkey.attach(model, "hiddenkey")


def test_the_lower_bounds_of_the_project_are_inside():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["lab"]]
    bounds = dict(re.fullmatch(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", line).groups() for line in wanted)
    for name in versions.TRIED:
        assert versions.untried(name, bounds[name]) is None


def test_the_fixed_versions_are_inside():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    fixed = dict(line.split(" ;")[0].split("==") for line in lines if "==" in line)
    for name in versions.TRIED:
        assert versions.untried(name, fixed[name]) is None
