"""The documentation site builds without a warning and without a network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hiddenkey
from hiddenkey.cli.commands import COMMANDS

pytest.importorskip("sphinx")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    words = ["-W", "--keep-going", "--quiet", "-b", "html", "-d", str(folder / "trees")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words, str(ROOT / "docs"), str(folder / "html")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


def read(site, name):
    return (site / f"{name}.html").read_text(encoding="utf-8")


def test_every_page_of_docs_is_there(site):
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    assert all((site / page).with_suffix(".html").exists() for page in pages)


def test_it_loads_nothing_from_elsewhere(site):
    for path in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", path.read_text("utf-8"))
        assert not [tag for tag in loaded if re.search(r"(src|href)=.(https?:)?//", tag)], path


def test_the_reference_has_every_command_flag_and_public_name(site):
    shown = re.sub("<[^>]+>", "", read(site, "reference/commands"))
    for name in COMMANDS:
        assert f"hiddenkey {name}\N{PILCROW SIGN}" in shown, name
    for flag in ("--learning-rate", "--mixup-alpha", "--minutes", "--page-only"):
        assert flag in shown
    flags = re.findall("<dt>.*?</dt>", read(site, "reference/commands"))
    assert not [flag for flag in flags if "print-config" in flag]
    python = read(site, "reference/python")
    assert [name for name in hiddenkey.__all__ if f'id="hiddenkey.{name}"' not in python] == []


def test_equations_are_drawn_by_the_browser(site):
    assert "<math" in read(site, "concepts/axes")


def test_links_that_leave_the_site_keep_their_text(site):
    trainers = read(site, "TRAINERS")
    assert "../examples" not in trainers
    assert ">examples<" in trainers
