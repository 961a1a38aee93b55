"""Runs a command of a plan in a run's folder, and reads what came of it.

The folder holds ``output`` (the command's own), ``printed.log``, ``observed`` (what
``hiddenkey run`` saw) and, when the command ended well, ``command.json``: from then on it is only
read.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hiddenkey.files import plain, write_whole
from hiddenkey.lab.compare import guard
from hiddenkey.lab.plans.command import CommandRun, fill
from hiddenkey.lab.queue.live import Doing
from hiddenkey.lab.results.command_result import metric_lines, result_of
from hiddenkey.lab.results.trainer_output import find_metric
from hiddenkey.lab.run.result import Result
from hiddenkey.launch import launch_environment, why_unattached
from hiddenkey.launch.stages import ATTACHED, FINISHED, LOG

_DONE: Final = "command.json"
_LAST_LINES: Final = 25
_LONGEST_TAIL: Final = 4000
_POLL_SECONDS: Final = 0.2
_PATIENCE_SECONDS: Final = 25


class CommandError(RuntimeError):
    """A command failed, or left nothing to compare."""


@dataclass(frozen=True)
class Limits:
    """How a command may run.

    Attributes:
        threads: threads of PyTorch, where the user has not set them.
        seconds: after so many it is stopped; ``None``: never.
        resumes: it goes on from what it finds in its output folder.
    """

    threads: int
    seconds: int | None = None
    resumes: bool = False


@dataclass(frozen=True)
class Launched:
    """What one command left.

    Attributes:
        result: its result.
        lines: its evaluations.
        observed: what ``hiddenkey run`` saw.
    """

    result: Result
    lines: tuple[Mapping[str, Any], ...]
    observed: Mapping[str, Any]


def launch(
    folder: Path, run: CommandRun, limits: Limits, look: Callable[[], None] = lambda: None
) -> Launched:
    """Run a command unless that was done before, and read its result.

    Args:
        folder: the run's folder.
        run: what to run.
        limits: how.
        look: is called again and again while it runs.

    Raises:
        CommandError: if it ends with another status than 0, with the end of what it printed, if it
            takes too long, or if the method was never attached.
        ConfigError: if the metric is not in what it left, with the metrics that are.
        DivergedError: if the metric is no finite number at the end.
    """
    output, observed = folder / "output", folder / "observed"
    if not (folder / _DONE).is_file():
        _prepare(folder, resumes=limits.resumes)
        started = time.perf_counter()
        _start(folder, run, limits, look)
        done = {"command": run.options.words(str(output)), "seconds": time.perf_counter() - started}
        write_whole(folder / _DONE, json.dumps(done, indent=1) + "\n")
    seen = _observed(observed, run)
    named = run.options.metric_file
    source = find_metric(
        run.options.metric,
        output,
        printed=folder / "printed.log",
        record=observed,
        named=None if named is None else Path(fill(named, run.options.values(str(output)))),
    )
    lines = metric_lines(source, run.options.metric)
    seconds = float(json.loads((folder / _DONE).read_text(encoding="utf-8"))["seconds"])
    result = result_of(run, lines, seen, source=source, seconds=seconds)
    return Launched(result, tuple(plain(lines)), seen)


def progress(folder: Path, run: CommandRun, name: str) -> Doing:
    """What a command that runs now has done, as far as it was attached from outside.

    Args:
        folder: the run's folder.
        run: what runs.
        name: what a person calls it.
    """
    steps = int(_read(folder / "observed" / ATTACHED).get("steps") or 0)
    lines: list[Mapping[str, Any]] = []
    with suppress(OSError, ValueError):
        text = (folder / "observed" / LOG).read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
    metric = run.options.metric
    values = [line[metric] for line in lines if isinstance(line.get(metric), int | float)]
    note = f"{metric} {values[-1]:.4f}" if values else ""
    return Doing(name, int(lines[-1]["step"]) if lines else 0, steps, note)


def _prepare(folder: Path, *, resumes: bool) -> None:
    """Make the run's folders; what an interrupted command left would be mistaken for results."""
    if not resumes:
        shutil.rmtree(folder / "output", ignore_errors=True)
    shutil.rmtree(folder / "observed", ignore_errors=True)
    for name in ("output", "observed"):
        (folder / name).mkdir(parents=True, exist_ok=True)


def _start(folder: Path, run: CommandRun, limits: Limits, look: Callable[[], None]) -> None:
    environment = {**os.environ, **_variables(folder, run)}
    environment.setdefault("OMP_NUM_THREADS", str(limits.threads))
    words = run.options.words(str(folder / "output"))
    reading, writing = os.pipe()
    program = [sys.executable, "-I", str(guard.__file__), str(reading), *words]
    with (folder / "printed.log").open("ab" if limits.resumes else "wb") as printed:
        process = subprocess.Popen(
            program,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            pass_fds=(reading,),
            start_new_session=True,  # Ctrl-C reaches the comparison alone, which decides
        )
        try:
            status = _wait(process, limits.seconds, look)
        finally:
            os.close(writing)
            os.close(reading)
            _end(process)
    if status:
        tail = _tail(folder)
        how = f"the command {_ended(status)}"
        raise CommandError(f"{how}\n{tail}" if tail else f"{how} and printed nothing")


def _variables(folder: Path, run: CommandRun) -> dict[str, str]:
    """The environment that attaches the method inside of the command."""
    if not run.options.attaches:
        return {}
    return launch_environment(run.options.launch_settings(), folder / "observed")


def _wait(process: subprocess.Popen[bytes], seconds: int | None, look: Callable[[], None]) -> int:
    until = None if seconds is None else time.monotonic() + seconds
    while (status := process.poll()) is None:
        if until is not None and time.monotonic() > until:
            raise CommandError(
                f"the command took longer than {seconds} seconds and was stopped; give a larger"
                " --time-limit, or leave it out"
            )
        look()
        time.sleep(_POLL_SECONDS)
    return status


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_SECONDS)
        process.kill()
        process.wait()


def _tail(folder: Path) -> str:
    """The end of what a command printed; its last line says most about what went wrong."""
    text = (folder / "printed.log").read_bytes()[-_LONGEST_TAIL:].decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line.strip()][-_LAST_LINES:]
    return "\n".join(lines)


def _ended(status: int) -> str:
    """How a command ended that did not end well; a shell writes a signal as 128 and its number."""
    number = -status if status < 0 else status - 128
    with suppress(ValueError):
        return f"was ended by {signal.Signals(number).name} (status {status})"
    return f"ended with status {status}"


def _observed(folder: Path, run: CommandRun) -> dict[str, Any]:
    """What was seen of the attached method.

    Raises:
        CommandError: if it was not attached, or dropped nothing where it should.
    """
    if not run.options.attaches:
        return {}
    if reason := why_unattached(folder):
        raise CommandError(
            f"the method was not attached: {reason}; attach in the script, and use {{method}} and"
            " {rate} in the command"
        )
    attached, finished = _read(folder / ATTACHED), _read(folder / FINISHED)
    if not finished:
        raise CommandError("the training did not come to its end, though the command ended well")
    reached = {key.partition("/")[0] for key, rate in finished["sites"].items() if rate is not None}
    silent = {key.partition("/")[0] for key in finished["sites"]} - reached
    if silent:
        raise CommandError(
            f"the method dropped nothing at {', '.join(sorted(silent))}: no training pass came"
            " there; see what 'hiddenkey run' says of the model"
        )
    return {**attached, **finished}


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}
