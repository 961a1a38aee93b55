import json
import os
import subprocess
import sys
import tempfile

import pytest

import hiddenkey
from hiddenkey.cli import main as entry
from hiddenkey.cli.commands import COMMANDS
from hiddenkey.installation import install_command

HEAVY = ("torch", "transformers", "peft", "scipy", "optuna", "jinja2", "matplotlib", "rich")
HELPS = [[name] for name in COMMANDS]


def run_fresh(*words):
    """Run the command in a process of its own; report what it imported."""
    code = (
        "import sys, json\n"
        "from hiddenkey.cli.main import main\n"
        "try:\n    status = main(sys.argv[1:])\n"
        "except SystemExit as end:\n    status = end.code\n"
        f"watched = {HEAVY!r}\n"
        "heavy = [name for name in watched if name in sys.modules]\n"
        "print(json.dumps([status, heavy]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True, text=True, check=True, env=environment, timeout=60,
    )  # fmt: skip
    *shown, last = done.stdout.splitlines()
    return "\n".join(shown), done.stderr, *json.loads(last)


def test_help_lists_the_commands_and_imports_nothing_heavy():
    shown, _, status, heavy = run_fresh("--help")
    for command in ("train", "methods", "doctor"):
        assert f"  {command}" in shown
    assert (status, heavy) == (0, [])


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_of_every_command_imports_nothing_heavy(words):
    shown, errors, status, heavy = run_fresh(*words, "--help")
    assert (status, errors) == (0, "")
    assert " ".join(["usage: hiddenkey", *words]) in shown
    assert heavy == []


def test_a_wrong_flag_is_refused_before_anything_heavy_is_imported():
    _, errors, status, heavy = run_fresh("claims", "--sede", "3")
    assert "--sede is not a setting; did you mean '--seeds'" in errors
    assert (status, heavy) == (2, [])


def test_methods_does_not_import_transformers():
    shown, _, status, heavy = run_fresh("methods")
    assert "hiddenkey-minus" in shown
    assert status == 0
    assert "transformers" not in heavy


def test_bad_settings_are_refused_without_transformers():
    shown, errors, status, heavy = run_fresh("train", "--rank", "0", "--task", "rte")
    assert (shown, status) == ("", 2)
    assert errors.startswith("hiddenkey train: 2 errors:\n  - rank must be at least 1, got 0;")
    assert "Traceback" not in errors
    assert "transformers" not in heavy


def test_unknown_command_suggests_the_nearest(capsys):
    with pytest.raises(SystemExit) as ended:
        entry.main(["trian"])
    assert ended.value.code == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


def test_python_runs_the_package_as_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "hiddenkey", "--version"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"hiddenkey {hiddenkey.__version__}\n"


def test_version(capsys, monkeypatch):
    with pytest.raises(SystemExit) as ended:
        entry.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"hiddenkey {hiddenkey.__version__}\n"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (hiddenkey.ConfigError("a rule"), 2, "hiddenkey methods: error: a rule\n"),
        (hiddenkey.AttachError("a model"), 2, "hiddenkey methods: error: a model\n"),
        (
            ModuleNotFoundError("no", name="peft"),
            2,
            f"hiddenkey methods: error: package 'peft' is missing; run: {install_command('lab')}\n",
        ),
        (
            OSError(28, "No space left on device", "runs/x"),
            2,
            "hiddenkey methods: error: runs/x: No space left on device; fix that or choose another"
            " place, and run the same command again\n",
        ),
        (KeyboardInterrupt(), 130, "hiddenkey methods: stopped\n"),
    ],
)
def test_errors_become_messages(error, status, message, monkeypatch, capsys):
    from hiddenkey.cli import methods

    def fail(arguments):
        raise error

    monkeypatch.setattr(methods, "run", fail)
    assert entry.main(["methods"]) == status
    assert capsys.readouterr().err == message


def test_what_fails_at_an_interrupt_is_an_interrupt(monkeypatch, capsys):
    from hiddenkey.cli import methods

    def fail(arguments):
        try:
            raise KeyboardInterrupt
        finally:
            raise UnboundLocalError("a library's")

    monkeypatch.setattr(methods, "run", fail)
    assert entry.main(["methods"]) == 130
    assert capsys.readouterr().err == "hiddenkey methods: stopped\n"


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("by\n0"), ModuleNotFoundError("no", name="hiddenkey.gone")]
)
def test_what_nobody_foresaw_is_one_line_and_a_file(error, monkeypatch, capsys, tmp_path):
    from hiddenkey.cli import methods

    def fail(arguments):
        raise error

    monkeypatch.setattr(methods, "run", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert entry.main(["methods"]) == 1
    (details,) = tmp_path.iterdir()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hiddenkey methods: error: an error that was not foreseen (")
    assert line.endswith(f"please report it with the details in {details}")
    assert "in fail" in details.read_text()


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("compare", "[PLAN]"),
        ("tune", "[FILE or PLAN]"),
        ("claims", "[CLAIM ...]"),
        ("report", "[--config CONFIG]"),  # whose folder is no flag, and comes last
    ],
)
def test_help_shows_what_may_stand_before_the_flags(command, shown, capsys):
    with pytest.raises(SystemExit):
        entry.main([command, "--help"])
    usage = capsys.readouterr().out.partition("\n\n")[0]
    assert usage.startswith(f"usage: hiddenkey {command} {shown} ")
