"""``hiddenkey run``: what it passes through, and what it says where nothing was attached."""

import os
import signal
import subprocess
import sys
import time

import pytest

from hiddenkey.cli.main import main

PYTHON = sys.executable
WAITS = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
for number in getattr(signal, "SIGUSR1", 0), getattr(signal, "SIGHUP", 0):
    if number:
        signal.signal(number, lambda *_: sys.exit(9))
pathlib.Path(sys.argv[1]).touch()
try:
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(5)
"""

posix = pytest.mark.skipif(os.name != "posix", reason="signals of this kind")


@pytest.mark.parametrize("status", [0, 3])
def test_streams_and_status_are_the_commands(status, capfd):
    code = "import sys; print('out', *sys.argv[2:]); sys.stderr.write('err\\n')"
    code += "; sys.exit(int(sys.argv[1]))"
    words = [PYTHON, "-c", code, str(status), "--lr", "--", "1"]
    found = main(["run", "--method", "lora", "--", *words])
    shown = capfd.readouterr()
    assert shown.out == "out --lr -- 1\n"
    assert shown.err.startswith("err\n")
    assert found == (status or 1)
    assert ("nothing was attached" in shown.err) is (status == 0)


def test_the_commands_own_progress_bars_stay(monkeypatch, capfd):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    code = "import os; print(os.environ.get('TQDM_DISABLE'), os.environ['HIDDENKEY_LAUNCH'])"
    main(["run", "--method", "lora", "--rate", "0.2", "--", PYTHON, "-c", code])
    assert capfd.readouterr().out.startswith('None {"settings": {"method": "lora", "rate": 0.2')


def test_without_a_trainer_three_lines_and_the_reason_are_shown(capfd):
    assert main(["run", "--method", "dropkey", "--", PYTHON, "-c", "import hiddenkey"]) == 1
    shown = capfd.readouterr().err
    assert "no Trainer of transformers or Lightning was imported" in shown
    assert 'attachment = hiddenkey.attach(model, "dropkey")' in shown
    assert "own_loss" in shown


def test_what_an_earlier_command_left_in_the_record_does_not_count(tmp_path, capfd):
    (tmp_path / "attached.json").write_text("{}")
    assert main(["run", "--record", str(tmp_path), "--", PYTHON, "-c", ""]) == 1
    assert not (tmp_path / "attached.json").exists()
    assert "nothing was attached" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the command must follow after --, got none"),
        (["python", "a.py"], "the command must follow after --, got 'python' without; for example"),
        (["--method", "hiddenkey", "a.py"], "the command must follow after --; for example"),
        (["--rate", "0.1", "python", "a.py", "--lr", "1"], "the command must follow after --; for"),
        (["--method", "hiddenkey", "--"], "the command must follow after --, got none"),
        (["--method", "hiddenky", "--", "true"], "did you mean 'hiddenkey'"),
        (["--rat", "0.1", "--", "true"], "--rat is not a setting; did you mean '--rate'"),
        (["--rates.hidden", "2", "--", "true"], "must be in [0, 1), got 2"),
        (["--method", "dropkey", "--consistency-every", "2", "--", "true"], "no consistency loss"),
    ],
    ids=[
        "nothing",
        "no dashes",
        "no dashes, a flag",
        "no dashes, its flags",
        "no command",
        "method",
        "flag",
        "rate",
        "loss",
    ],
)
def test_wrong_words_are_told_and_nothing_starts(words, message, capfd):
    assert main(["run", *words]) == 2
    assert message in capfd.readouterr().err


def test_a_command_that_does_not_exist(capfd):
    assert main(["run", "--", "no-such-command", "x"]) == 127
    assert "no-such-command x: No such file or directory" in capfd.readouterr().err


def test_help_shows_the_flags_and_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    shown = capsys.readouterr().out
    assert "--consistency-weight" in shown
    assert "-- python train.py" in shown


@posix
@pytest.mark.parametrize(
    ("name", "status"),
    [("SIGINT", 5), ("SIGTERM", 7), ("SIGUSR1", 9), ("SIGHUP", 9), ("SIGKILL", 137)],
)
def test_signals_reach_the_command(name, status, tmp_path):
    number = getattr(signal, name)
    ready = tmp_path / "ready"
    words = [PYTHON, "-m", "hiddenkey", "run", "--method", "lora", "--"]
    running = subprocess.Popen(
        [*words, PYTHON, "-c", WAITS, str(ready)], stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    while not ready.exists():
        assert running.poll() is None
        time.sleep(0.05)
    if number == signal.SIGKILL:
        child = int(subprocess.check_output(["pgrep", "-P", str(running.pid)]).split()[0])
        os.kill(child, number)
    else:
        running.send_signal(number)
    assert running.wait(30) == status
