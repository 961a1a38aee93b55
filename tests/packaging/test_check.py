"""What the check of the distributions prints, and that it can fail."""

import subprocess

import pytest


@pytest.fixture
def checks(tmp_path):
    from check_distributions import Checks

    return Checks(tmp_path / "log.txt")


def ended(status, stdout="", stderr=""):
    return subprocess.CompletedProcess(["a", "command"], status, stdout, stderr)


def expect(checks, done, prints="", status=0):
    from check_distributions import Use

    use = Use(("a", "command"), prints, status)
    return checks.run("a command", lambda: checks.expect(done, use))


def test_a_check_that_passes_is_one_line(checks, capsys, tmp_path):
    assert expect(checks, ended(0, "all is well\n"), "is well")
    assert capsys.readouterr().out == "ok      a command (0 s)\n"
    assert checks.failed == 0
    assert (tmp_path / "log.txt").read_text() == "$ a command\nall is well\n\n"


def test_an_error_may_be_what_is_expected(checks):
    assert expect(checks, ended(2, stderr="a rule\n"), "a rule", status=2)


@pytest.mark.parametrize(
    ("done", "prints"),
    [
        (ended(1, "is well"), "is well"),
        (ended(0, "other words"), "is well"),
        (ended(0, "is well\n", "Traceback (most recent call last):"), "is well"),
    ],
    ids=["status", "output", "traceback"],
)
def test_a_check_that_fails_tells_the_last_lines(checks, capsys, done, prints):
    assert not expect(checks, done, prints)
    first, *others = capsys.readouterr().out.splitlines()
    assert first == "failed  a command (0 s)"
    assert others[0].startswith(f"        exit status {done.returncode}, expected 0 and 'is well'")
    assert others[-1].strip() == (done.stderr or done.stdout)
    assert checks.failed == 1


def test_a_build_that_fails_tells_its_output(checks, capsys):
    def fail():
        raise subprocess.CalledProcessError(1, ["build"], output="no such backend")

    assert not checks.run("build", fail)
    assert "no such backend" in capsys.readouterr().out


def test_wheels_that_differ_are_a_failure(tmp_path):
    import zipfile

    from check_distributions import CheckError, same_files
    from distributions import Distributions

    for name, files in {"one.whl": "ab", "two.whl": "a"}.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file in files:
                archive.writestr(file, "")
    built = Distributions(tmp_path / "no.tar.gz", tmp_path / "one.whl", tmp_path / "two.whl")
    with pytest.raises(CheckError, match="only one of the wheels has b"):
        same_files(built)
