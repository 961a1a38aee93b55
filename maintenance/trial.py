"""Runs the tests with other versions than the fixed ones, and tells in a short table what broke.

    python maintenance/trial.py latest [--torch VERSION] [--minutes M]
    python maintenance/trial.py oldest [--torch VERSION] [--minutes M]

`latest` installs the newest releases, `oldest` the lower bounds of pyproject.toml, each in an
environment of its own, .venv-latest or .venv-oldest, which is made anew each time. PyTorch's newest
release brings gigabytes with it: `latest` stays at the version of constraints.txt unless `--torch
newest` or `--torch VERSION` asks for another. Packages that are only read as files stay too.

A row of the table is one cause: the deepest library on the way to the error whose version is not
the fixed one, both versions, the error, and how many tests met it. A second table has the warnings,
which fail nothing here. Python attributes many of them to the caller, often to torch: the message
tells whose they are. After M minutes the tests are stopped and the tables have what was found.

Prints the tables and writes runs/latest.md, runs/latest.json and, with all output, runs/latest.log.
The exit status is 0 if every test ran and nothing broke, and else 1.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from typing import Final

from breakage import table
from environments import Environment, Trial, stop_when_terminated
from lock import add_options, held, holds_of, of_files
from project import NEWEST, THIS, Project, lower_bounds

TITLES: Final = {"latest": "Newest releases", "oldest": "Oldest versions"}


def given_versions(project: Project, kind: str, holds: Mapping[str, str]) -> dict[str, str]:
    """Return the versions that are not left to pip, by package."""
    present = project.constraints.read_text(encoding="utf-8")
    if kind == "oldest":
        given = lower_bounds(project.table, project.extra)
    else:
        given = held(project, present)
    found = {**given, **of_files(present), **holds}
    return {name: version for name, version in found.items() if version != NEWEST}


def run(
    project: Project, kind: str, holds: Mapping[str, str], minutes: float | None = None
) -> Trial:
    """Install the versions of this kind, run the tests with them, and write what broke."""
    runs = project.root / "runs"
    runs.mkdir(exist_ok=True)
    constraints = runs / f"{kind}-constraints.txt"
    given = given_versions(project, kind, holds)
    text = "".join(f"{name}=={version}\n" for name, version in given.items())
    constraints.write_text(text, encoding="utf-8")
    environment = Environment(
        project, project.root / f".venv-{kind}", runs / f"{kind}.log", minutes, lenient=True
    )
    trial = environment.try_out(constraints)
    (runs / f"{kind}.md").write_text(page(kind, trial), encoding="utf-8")
    (runs / f"{kind}.json").write_text(json.dumps(record(trial), indent=1) + "\n", encoding="utf-8")
    return trial


def page(kind: str, trial: Trial) -> str:
    """Return a trial as Markdown."""
    versions = trial.versions
    changes = ", ".join(f"{name} {versions.change(name)}" for name in versions.changed)
    parts = [
        f"# {TITLES[kind]}, {date.today().isoformat()}",
        f"Python {platform.python_version()}, {platform.system()}. Not the fixed version:"
        f" {changes or 'none'}.",
        how_far(trial),
        "## What broke",
        table(trial.broken) if trial.broken else "nothing",
    ]
    if trial.warnings:
        parts += ["## Warnings, not failures", table(trial.warnings, "attributed to")]
    return "\n\n".join(parts) + "\n"


def how_far(trial: Trial) -> str:
    """Say how many tests ran, and whether those are all."""
    ran = f"{trial.tests} tests ran"
    if trial.complete:
        return f"{ran}, {trial.minutes:.0f} minutes."
    return f"Incomplete: stopped after {trial.minutes:.0f} minutes, {ran}."


def record(trial: Trial) -> dict[str, object]:
    """Return a trial as a JSON object, with every version."""
    return {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        **asdict(trial),
    }


def main(arguments: Sequence[str] | None = None, project: Project = THIS) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description="Run the tests with other versions.")
    parser.add_argument("kind", choices=TITLES)
    parser.add_argument("--minutes", type=float, metavar="M", help="time limit (default: none)")
    add_options(parser)
    options = parser.parse_args(arguments)
    trial = run(project, options.kind, holds_of(options), options.minutes)
    print(page(options.kind, trial), end="")
    return 0 if trial.complete and not trial.broken else 1


if __name__ == "__main__":
    stop_when_terminated()
    sys.exit(main())
