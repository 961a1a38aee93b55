"""Makes an environment, runs a project's tests in it within a time limit, and tells what broke."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from breakage import OWN, Cause, Versions, causes, read_records, tests_run
from installation import installation_failure
from project import Project, versions_here

SECONDS_TO_STOP: Final = 20
# exit status of pytest
PASSED: Final = 0
INTERNAL_ERROR: Final = 3
NO_TESTS: Final = 5

_LENIENT: Final = ("-W", "default")
_PIP: Final = {"PIP_VERBOSE": "1", "PIP_UPGRADE": "1"}
"""pip says which versions contradict each other, although the Makefile asks it to be quiet. It
takes new versions of the packages that come with an environment, pip itself among them."""

_SCRIPTS: Final = Path(__file__).resolve().parent
_VERSIONS: Final = """
import importlib.metadata, json
print(json.dumps({d.name: d.version for d in importlib.metadata.distributions()}))
"""


class OutOfTimeError(Exception):
    """The time limit came before a command ended."""


@dataclass(frozen=True)
class Trial:
    """What came of the tests in an environment.

    Attributes:
        versions: the fixed versions and the installed ones.
        broken: one row for each cause of a failure.
        warnings: one row for each warning.
        tests: how many tests ran.
        complete: whether every test ran within the time limit.
        minutes: how long all of it took.
    """

    versions: Versions
    broken: list[Cause]
    warnings: list[Cause]
    tests: int
    complete: bool
    minutes: float


@dataclass
class Environment:
    """An environment of a project in a folder of its own.

    Attributes:
        project: the project.
        folder: the environment's folder; what is there is removed first.
        log: file that gets the output of every command.
        minutes: time limit of everything together; ``None``: none.
        lenient: report warnings of the project's own code too, instead of failing on them.
    """

    project: Project
    folder: Path
    log: Path
    minutes: float | None = None
    lenient: bool = False
    _start: float = field(default_factory=time.time)
    _end: float = math.inf

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.folder / "bin" / "python"

    def try_out(self, constraints: Path, checks: Sequence[str] = ()) -> Trial:
        """Install with these constraints, run the tests, and collect what broke.

        Args:
            constraints: versions that pip has to keep to.
            checks: targets of the Makefile that have to succeed too.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("", encoding="utf-8")
        records = self.log.with_suffix(".jsonl")
        records.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        broken: list[Cause] = []
        complete = True
        try:
            failed = self._make("install", constraints)
            if failed:
                broken.append(installation_failure(failed))
            else:
                broken += [
                    _failed_check(target) for target in checks if self._make(target, constraints)
                ]
                broken += self._run_suites(records)
        except OutOfTimeError:
            complete = False
        return self._outcome(records, broken, complete)

    def _outcome(self, file: Path, broken: list[Cause], complete: bool) -> Trial:
        versions = Versions(self._locked(), self._installed())
        # what was stopped may fail on its way down
        records = [record for record in read_records(file) if record["at"] <= self._end]
        return Trial(
            versions,
            broken + causes(records, "failure", versions),
            causes(records, "warning", versions),
            tests_run(records),
            complete,
            (time.time() - self._start) / 60,
        )

    def _make(self, target: str, constraints: Path) -> str:
        """Run a target in this environment; return what it printed if it failed."""
        command = ["make", target, f"VENV={self.folder}", f"CONSTRAINTS={constraints}",
                   f"PYTHON={sys.executable}"]  # fmt: skip
        before = self.log.stat().st_size
        if self._run(command, _PIP) == 0:
            return ""
        return self.log.read_bytes()[before:].decode(errors="replace")

    def _run_suites(self, records: Path) -> list[Cause]:
        found = []
        for arguments in self.project.suites:
            failures = _failures(records)
            status = self._run(self._pytest(arguments, records), _with_plugin())
            unexplained = status not in (PASSED, NO_TESTS) and _failures(records) == failures
            if unexplained or status < 0 or status == INTERNAL_ERROR:
                found.append(_did_not_end(arguments, status))
        return found

    def _pytest(self, arguments: Sequence[str], records: Path) -> list[str]:
        return [
            str(self.python), "-m", "pytest", *arguments, *(_LENIENT if self.lenient else ()),
            "--continue-on-collection-errors", "-p", "no:cacheprovider",
            "-p", "breakage_plugin", f"--breakage={records}",
        ]  # fmt: skip

    def _run(self, command: Sequence[str], variables: Mapping[str, str] | None = None) -> int:
        """Run a command with its output in the log and return its exit status.

        Raises:
            OutOfTimeError: if the time limit comes first; the command and its children are stopped.
        """
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            process = self._start_process(command, {**os.environ, **(variables or {})}, log)
            try:
                return process.wait(self._seconds_left())
            except subprocess.TimeoutExpired as error:
                self._end = time.time()
                raise OutOfTimeError from error
            finally:
                _stop(process)

    def _start_process(
        self, command: Sequence[str], variables: Mapping[str, str], log: IO[str]
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, cwd=self.project.root, env=variables, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def _seconds_left(self) -> float | None:
        if self.minutes is None:
            return None
        return max(0.0, self._start + self.minutes * 60 - time.time())

    def _locked(self) -> dict[str, str]:
        return versions_here(self.project.constraints.read_text(encoding="utf-8"))

    def _installed(self) -> dict[str, str]:
        if not self.python.exists():
            return {}
        done = subprocess.run(
            [self.python, "-c", _VERSIONS], capture_output=True, text=True, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return {re.sub(r"[-_.]+", "-", name).lower(): str(found[name]) for name in found}


def _failed_check(target: str) -> Cause:
    return Cause(OWN, "", f"make {target} did not succeed", 0, target)


def _did_not_end(arguments: Sequence[str], status: int) -> Cause:
    what = f"pytest ended with status {status} before it had run every test"
    return Cause("pytest", "", what, 0, " ".join(arguments))


def _failures(records: Path) -> int:
    return sum(record["kind"] == "failure" for record in read_records(records))


def _with_plugin() -> dict[str, str]:
    others = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(_SCRIPTS), *([others] if others else [])])}


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a command, so that its tests clean up, and end what is left of its processes."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS_TO_STOP)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def stop_when_terminated() -> None:
    """Let a termination stop the tests too: they run in a session of their own.

    A command that a shell put into the background ignores interrupts, and so would all that it
    starts: pytest could not be stopped, and tests of interrupts would fail.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    signal.signal(signal.SIGINT, signal.default_int_handler)
