"""The command in processes of its own, which end at a moment that the test chooses."""

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from hiddenkey.cli.main import main

MOMENTS = int(os.environ.get("HIDDENKEY_CRASH", "0"))
"""Moments of each test; 0: the short form that runs with all tests."""

TIMED = ("seconds", "seconds_per_step", "evaluation_seconds", "peak_memory_mib")
_WRITES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")


def moments(short):
    """Numbers in [0, 1): where to end a process; always the same few, or as many as asked for."""
    generator = random.Random(MOMENTS)
    return [generator.random() for _ in range(MOMENTS or short)]


class Events:
    """Counts what a process is about to do to the files of a folder; does something at one."""

    def __init__(self, folder, number=None, act=None):
        self.count, self._folder, self._number, self._act = 0, str(folder), number, act

    def __call__(self, event, arguments):
        if event == "open":
            path, mode, _ = arguments
            if not isinstance(mode, str) or not set(mode) & set("wax+"):
                return
        elif event in _WRITES:
            path = arguments[0]
        else:
            return
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self._folder):
            self.count += 1
            if self.count == self._number:
                self._act()


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def start(arguments, log, *, events=None, largest=None, prepare=None):
    """Start the command in a process, which ``prepare`` may change first; return its number."""
    number = os.fork()
    if number:
        return number
    code = 99
    try:
        os.setsid()
        os.environ |= {"PATH": "", "JAVA_HOME": ""}  # METEOR takes a minute to start
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        if events is not None:
            sys.addaudithook(events)
        if prepare is not None:
            prepare()
        code = main([str(word) for word in arguments])
        if events is not None:
            print(f"events {events.count}")
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end(number):
    """Wait for a process; return its exit status, minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def ended_after(number, seconds, how):
    """End a process after some time, unless it has ended; return its exit status."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(number, how)
    return end(number)


def run_result(folder):
    """All that a run found, without times, and the bytes of its adapter."""
    found = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    texts = ("generations.jsonl", "scores.json")
    return (
        _untimed(found),
        [_untimed(line) for line in lines],
        {path.name: path.read_bytes() for path in sorted((folder / "adapter").iterdir())},
        {name: (folder / name).read_bytes() for name in texts if (folder / name).exists()},
    )


def _untimed(values):
    return {
        name: value for name, value in values.items() if name not in (*TIMED, "generation_seconds")
    }


def delete(folder):
    return lambda: shutil.rmtree(folder, ignore_errors=True)


def said(log):
    """What the command printed; nothing of it is a traceback or an error nobody foresaw."""
    text = Path(log).read_text()
    assert "Traceback" not in text, text
    assert "not foreseen" not in text, text
    return text
