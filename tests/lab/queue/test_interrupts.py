"""An interrupt that Python drops, since it fell into a callback, arrives all the same."""

import subprocess
import sys

import pytest

PROCESS = """
import os, signal, sys, time, weakref
from contextlib import nullcontext
from hiddenkey.lab.queue.interrupts import interrupt, interrupts_arrive

def die(*_):
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    for _ in range(1000):  # the handler runs at one of these lines
        pass

class Thing:
    __del__ = die if sys.argv[2] == "__del__" else lambda self: None

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, interrupt)
with nullcontext() if sys.argv[3] == "plain" else interrupts_arrive():
    try:
        thing = Thing()
        seen = weakref.ref(thing, die) if sys.argv[2] == "weakref" else None
        del thing
        print("dropped", flush=True)
        time.sleep(1 if sys.argv[3] == "plain" else 60)
    except KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGTERM)  # nothing stops the clearing up
        time.sleep(0.05)
        print("arrived", flush=True)
"""


@pytest.mark.parametrize("where", ["weakref", "__del__"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_it_arrives(name, where):
    assert ended(name, where, "kept") == ("dropped\narrived\n", "")


def test_python_would_drop_it():
    said, errors = ended("SIGTERM", "weakref", "plain")
    assert said == "dropped\n"
    assert "Exception ignored" in errors


def test_other_exceptions_are_told_as_ever(capsys):
    from hiddenkey.lab.queue.interrupts import interrupts_arrive

    class Thing:
        def __del__(self):
            raise ValueError("told")

    told, before = [], sys.unraisablehook
    sys.unraisablehook = lambda unraisable: told.append(str(unraisable.exc_value))
    try:
        mine = sys.unraisablehook
        with interrupts_arrive():
            Thing()
        assert sys.unraisablehook is mine
    finally:
        sys.unraisablehook = before
    assert told == ["told"]


def ended(*words):
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, *words], capture_output=True, text=True, timeout=120
    )
    return done.stdout, done.stderr
