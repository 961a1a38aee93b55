"""What ``make release`` wants before it builds anything."""

import subprocess

import pytest

from release import faults, git


@pytest.fixture
def ready(tmp_path):
    """A checkout that is ready for version 1.2."""
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n\n## [1.2] - 2026-11-29\n")
    (tmp_path / "CITATION.cff").write_text("cff-version: 1.2.0\nversion: 1.2\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "config", "user.name", "a")
    git(tmp_path, "config", "user.email", "a@b.example")
    commit(tmp_path)
    return tmp_path


def commit(root):
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "change")


def test_what_is_ready_has_no_faults(ready):
    assert list(faults(ready, "1.2")) == []


def test_every_fault_is_told_at_once(ready):
    git(ready, "tag", "v1.3")
    (ready / "new.txt").write_text("")
    assert [fault.partition(";")[0] for fault in faults(ready, "1.3")] == [
        "everything must be committed",
        "CHANGELOG.md must have a section '## [1.3] - DATE'",
        "CITATION.cff must say 'version: 1.3'",
        "the tag v1.3 exists",
    ]


def test_an_undated_section_is_no_release(ready):
    (ready / "CHANGELOG.md").write_text("## [1.2] - unreleased\n")
    commit(ready)
    assert list(faults(ready, "1.2")) == ["CHANGELOG.md must have a section '## [1.2] - DATE'"]


def test_git_must_be_there(tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        git(tmp_path, "status")
