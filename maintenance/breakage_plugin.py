"""A plugin of pytest that writes what broke and in which library, one JSON object a line.

    python -m pytest -p breakage_plugin --breakage FILE

It runs in the environment under test, so that it needs pytest and nothing else. With xdist the
workers describe a failure where its traceback is, and the controller writes it. Each line is
written at once: what is there counts when the tests are stopped.
"""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Generator, Iterable, Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

PROJECT: Final = "hiddenkey"
_INSTALLED: Final = ("site-packages", "dist-packages")
_TEST_TOOLS: Final = frozenset({"pytest", "pluggy", "pytest-xdist", "execnet", "hypothesis"})


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the file."""
    parser.addoption("--breakage", metavar="FILE", help="write what broke to FILE as JSON lines")


def pytest_configure(config: pytest.Config) -> None:
    """Describe failures in every process, and write them in the one that the others report to."""
    if config.getoption("--breakage"):
        config.pluginmanager.register(Describer(), "breakage-describer")
        if not hasattr(config, "workerinput"):
            config.pluginmanager.register(Writer(config.getoption("--breakage")), "breakage-writer")


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    """Where tests/conftest.py cannot be imported there is no report: pytest does not start."""
    try:
        return (yield)
    except Exception as error:
        file = early_config.known_args_namespace.breakage
        if file:
            cause = error.__cause__ or error
            Writer(file).write("failure", test="tests/conftest.py", **description(cause, ()))
        raise


class Describer:
    """Puts a description on each report of a failure, where the exception still is."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Describe what failed in a test, its setup or its teardown."""
        report = yield
        _describe(report, call.excinfo)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self,
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Describe why a file of tests cannot be imported."""
        report = yield
        call = getattr(report, "call", None)
        _describe(report, call and call.excinfo)
        return report


class Writer:
    """Writes a line for each test that ran, for each failure and for each warning."""

    def __init__(self, file: str) -> None:
        self._file = Path(file)

    def write(self, kind: str, **what: object) -> None:
        """Write one line, with the time."""
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"kind": kind, "at": time.time(), **what}) + "\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write a failure, and at its end that a test ran."""
        self._write_failure(report)
        if report.when == "teardown":
            self.write("test", test=report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Write that a file of tests cannot be imported."""
        self._write_failure(report)

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, nodeid: str
    ) -> None:
        """Write a warning with the library that it is attributed to."""
        own = warning_message.category.__module__.partition(".")[0] in ("pytest", "_pytest")
        library = None if own else library_of(warning_message.filename)
        self.write(
            "warning",
            test=nodeid,
            error=warning_message.category.__name__,
            message=first_line(str(warning_message.message)),
            libraries=[library] if library else [],
            raised_in=library,
            place=None,
        )

    def _write_failure(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed:
            found = getattr(report, "breakage", None) or _without_exception(report)
            self.write("failure", test=report.nodeid, **found)


def _describe(
    report: pytest.TestReport | pytest.CollectReport,
    found: pytest.ExceptionInfo[BaseException] | None,
) -> None:
    if report.failed and found is not None:
        error, shown = found.value, found.traceback.filter(found)
        frames = [(str(entry.path), entry.lineno + 1) for entry in shown]
        if isinstance(error, pytest.Collector.CollectError) and error.__cause__:
            error, frames = error.__cause__, []  # pytest wraps what an import raises
        report.breakage = description(error, frames)  # type: ignore[union-attr]


def description(error: BaseException, shown: Iterable[tuple[str, int]]) -> dict[str, Any]:
    """Return an exception's class and message, and the libraries it went through.

    Args:
        error: the exception.
        shown: file and line of each frame that counts, the outermost first; empty: all of them.

    Returns:
        error, message, place (file and line that raised), raised_in (the library there, or
        ``None``), and libraries, those that the error itself names and then those of the frames,
        the deepest first.
    """
    frames = list(shown) or list(_frames(error))
    deepest = library_of(frames[-1][0]) if frames else None
    through = [library_of(file) for file, _ in reversed(frames)]
    if error.__cause__ is not None:
        through += [library_of(file) for file, _ in reversed(list(_frames(error.__cause__)))]
    others = [name for name in through if name not in _TEST_TOOLS or name == deepest]
    named = _named_library(error)
    return {
        "error": type(error).__name__,
        "message": first_line(str(error)),
        "place": short_place(*frames[-1]) if frames else None,
        "raised_in": named or deepest,
        "libraries": [name for name in dict.fromkeys([named, *others]) if name],
    }


def _frames(error: BaseException) -> Iterator[tuple[str, int]]:
    step = error.__traceback__
    while step is not None:
        yield step.tb_frame.f_code.co_filename, step.tb_lineno
        step = step.tb_next


def _named_library(error: BaseException) -> str | None:
    """Return the library that lacks what was asked of it: none of its frames is on the way."""
    name: object = None
    if isinstance(error, ImportError):
        name = error.name
    elif isinstance(error, AttributeError) and error.obj is not None:
        thing = error.obj if isinstance(error.obj, ModuleType | type) else type(error.obj)
        name = thing.__name__ if isinstance(thing, ModuleType) else thing.__module__
    top = name.partition(".")[0] if isinstance(name, str) else ""
    return _distribution(top) if top in packages_by_module() else None


def _without_exception(report: pytest.TestReport | pytest.CollectReport) -> dict[str, Any]:
    text = report.longreprtext.strip()
    return {
        "error": "crash" if "crashed" in text else "failure",
        "message": first_line(text),
        "place": None,
        "raised_in": None,
        "libraries": [],
    }


def library_of(file: str) -> str | None:
    """Return the installed package that a source file belongs to; the project's own is none."""
    parts = Path(file).parts
    for folder in _INSTALLED:
        if folder in parts[:-1]:
            top = parts[parts.index(folder) + 1].removesuffix(".py")
            return None if top == PROJECT else _distribution(top)
    return None


def short_place(file: str, line: int) -> str:
    """Return file and line, the file below the folder of packages or the current one."""
    path = Path(file)
    for folder in _INSTALLED:
        if folder in path.parts:
            return f"{'/'.join(path.parts[path.parts.index(folder) + 1 :])}:{line}"
    here = Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path.name}:{line}"


def first_line(text: str) -> str:
    """Return the first line that says something."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _distribution(top: str) -> str:
    names = packages_by_module().get(top, [top])
    return re.sub(r"[-_.]+", "-", names[0]).lower()


@cache
def packages_by_module() -> dict[str, list[str]]:
    """Return the installed packages by the modules that they bring."""
    return {top: list(names) for top, names in packages_distributions().items() if top != PROJECT}
