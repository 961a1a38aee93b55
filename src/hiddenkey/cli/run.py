"""``hiddenkey run``: somebody's training command, with a method attached to what it trains."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from hiddenkey.errors import ConfigError
from hiddenkey.launch import LaunchSettings, launch_environment, why_unattached
from hiddenkey.launch.stages import THREE_LINES, clear

_EXAMPLE: Final = "hiddenkey run --method hiddenkey-minus --rate 0.1 -- python train.py --lr 2e-4"
_LIKE: Final = f"for example: {_EXAMPLE}"
_UNATTACHED: Final = 1
_NOT_FOUND: Final = 127
_KILLED: Final = 128  # and the signal's number, as shells say
_FROM_TERMINAL: Final = ("SIGINT", "SIGQUIT")
# What schedulers of jobs and closed terminals send; Windows has the first and the third alone.
_HANDED_ON: Final = (*_FROM_TERMINAL, "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


@dataclass(frozen=True)
class RunOptions:
    """What to attach; the command follows after --."""

    method: str = "hiddenkey"
    """Name of a method, see 'hiddenkey methods'."""
    rate: float | None = None
    """Dropout rate of all positions of the method, in [0, 1); none: the method's own."""
    rates: dict[str, float] = field(default_factory=dict)
    """Dropout rate by position, for example --rates.hidden 0.2; wins over --rate."""
    consistency_weight: float | None = None
    """Weight of the method's consistency loss; none: its own."""
    consistency_every: int | None = None
    """Run that loss in every so many forward passes; none: in each."""
    layers: tuple[int, ...] | None = None
    """Indices of the layers that drop, from 0; none: all."""
    keep_model_dropout: bool = False
    """Leave the model's own dropout on, which is switched off otherwise."""
    kernel: Literal["auto", "reference", "fused"] = "auto"
    """Attention path: auto takes the fused one where it is possible."""
    inference: Literal["last", "average", "ema"] = "last"
    """Weights that are evaluated, and left in the model at the end: of the last step, or a mean."""
    average_part: float = 0.5
    """Last part of the training that 'average' takes, in (0, 1]."""
    ema_decay: float = 0.99
    """Decay a step of 'ema', in (0, 1)."""
    step_cost: bool = False
    """Measure on the first batch what a step costs with the method and without, and log it; under
    transformers' and TRL's trainers."""
    record: str | None = None
    """Folder for what came of it: the model, the losses, the observed drop rates."""

    def settings(self) -> LaunchSettings:
        """Return what goes into the command."""
        given = {name: value for name, value in vars(self).items() if name != "record"}
        return LaunchSettings(**given)


def run(words: Sequence[str]) -> int:
    """Start the command after ``--`` and return its exit status, or 1 if nothing was attached.

    Args:
        words: flags, ``--`` and the command.

    Raises:
        ConfigError: with every fault of the flags, or if there is no command.
    """
    from hiddenkey.cli.arguments import parse

    flags, command = _split(words)
    if "--" not in words and words and not words[0].startswith("-"):
        raise ConfigError(f"the command must follow after --, got {words[0]!r} without; {_LIKE}")
    try:
        options = parse(RunOptions, "run", flags)
    except ConfigError as error:
        if "--" in words:
            raise
        raise ConfigError([*error.faults, f"the command must follow after --; {_LIKE}"]) from None
    except SystemExit:  # after --help
        print(f"\nThe command follows after --, for example:\n  {_EXAMPLE}")
        raise
    if not command:
        raise ConfigError(f"the command must follow after --, got none; {_LIKE}")
    with _record(options.record) as record:
        status = start(command, launch_environment(options.settings(), record))
        return status or _look(record, options.method)


def start(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command with this process's standard streams and return its exit status.

    Signals reach it: on a terminal both are in one group, which Ctrl-C ends; elsewhere the command
    has a group of its own. What a scheduler sends to this process alone (SIGTERM, SIGUSR1 and their
    like) is handed on, and this process ends when the command does.

    Args:
        command: the words.
        environment: variables to add.

    Returns:
        The exit status; 128 and the signal's number if a signal ended it; 127 if there is no such
        command.
    """
    # Windows has no groups of processes, and its consoles give Ctrl-C to all that they started
    together = os.name != "posix" or (sys.stdin is not None and sys.stdin.isatty())
    group: dict[str, Any] = {} if together else {"process_group": 0}
    try:
        process = subprocess.Popen(command, env={**os.environ, **environment}, **group)
    except OSError as error:
        why = error.strerror or type(error).__name__
        print(f"hiddenkey run: error: {shlex.join(command)}: {why}", file=sys.stderr)
        return _NOT_FOUND

    def hand_on(number: int, _: object) -> None:
        if process.poll() is not None:
            return
        if not together:
            os.killpg(process.pid, number)
        elif signal.Signals(number).name not in _FROM_TERMINAL:  # which gave those to both
            process.send_signal(number)

    with _handled_by(hand_on):
        status = process.wait()
    return status if status >= 0 else _KILLED - status


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words before and after the first ``--``."""
    given = list(words)
    if "--" not in given:
        return given, []
    at = given.index("--")
    return given[:at], given[at + 1 :]


@contextmanager
def _record(folder: str | None) -> Iterator[Path]:
    """Yield the record's folder, without what an earlier command left; a passing one by default."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="hiddenkey-") as passing:
            yield Path(passing)
        return
    clear(Path(folder))
    yield Path(folder)


@contextmanager
def _handled_by(handler: object) -> Iterator[None]:
    numbers = [getattr(signal, name) for name in _HANDED_ON if hasattr(signal, name)]
    before = [signal.signal(number, handler) for number in numbers]  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old or signal.SIG_DFL)  # none of Python's: that of a host


def _look(record: Path, method: str) -> int:
    """Return 0 if a model was attached and trained; else say why not, and return 1."""
    if reason := why_unattached(record):
        print(
            f"hiddenkey run: error: the command ended well, but nothing was attached: {reason};"
            f" write these lines into the script, after the model is made:\n"
            f"{THREE_LINES.format(method=method)}",
            file=sys.stderr,
        )
        return _UNATTACHED
    return 0
