"""What the scripts read from pyproject.toml, constraints.txt and the Makefile."""

import re
import shlex

import pytest

from hiddenkey.lab.assets import BBC_NEWS, MINILM, SMOLLM2
from lock import HEADER
from project import SUITES, THIS, files_only, lower_bounds, pins, versions_here

TABLE = {
    "name": "Toy",
    "dependencies": ["torch>=2.6"],
    "optional-dependencies": {
        "lab": ["Fancy_Name[one,two]>=4.53,<5", "psycopg[binary]~=3.3"],
        "other": ["never>=1"],
        "dev": ["toy[lab]", "ruff==0.17.5", "star==1.*", "no-bound"],
    },
}


def test_lower_bounds_are_those_of_the_extras_that_an_extra_names():
    assert lower_bounds(TABLE, "dev") == {
        "fancy-name": "4.53",
        "psycopg": "3.3",
        "ruff": "0.17.5",
        "torch": "2.6",
    }


def test_the_projects_own_lower_bounds_are_found():
    bounds = lower_bounds(THIS.table, "dev")
    assert {"torch", "transformers", "peft", "trl", "lightning", "datasets", "pytest"} <= set(
        bounds
    )


def test_markers_choose_the_version_for_this_interpreter():
    text = (
        "# a comment\nnumpy==2.4 ; python_full_version < '3.0'\n"
        "numpy==2.5 ; python_full_version >= '3.0'\n\nonly-elsewhere==1 ; os_name == 'none'\n"
    )
    assert versions_here(text) == {"numpy": "2.5"}
    assert pins(text) == {"numpy": "2.4 / 2.5", "only-elsewhere": "1"}


def test_the_fixed_versions_are_versions_and_nothing_else():
    text = THIS.constraints.read_text(encoding="utf-8")
    assert text.startswith(HEADER)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; [^/@]+)?", line) for line in lines)
    assert files_only(text).items() >= {
        (asset.package, asset.version) for asset in (BBC_NEWS, MINILM, SMOLLM2)
    }


@pytest.mark.parametrize("extra", ["dev", "lab"])
def test_the_fixed_versions_hold_everything_that_is_required(extra):
    names = versions_here(THIS.constraints.read_text(encoding="utf-8"))
    assert set(lower_bounds(THIS.table, extra)) <= set(names)


def test_the_tests_are_run_as_make_test_runs_them():
    makefile = (THIS.root / "Makefile").read_text(encoding="utf-8")
    _, _, recipe = makefile.partition("\ntest:")
    commands = re.findall(r"^\t\$\(BIN\)/python -m pytest (.*)$", recipe.partition("\n\n")[0], re.M)
    assert tuple(tuple(shlex.split(command)) for command in commands) == SUITES
