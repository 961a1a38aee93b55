"""Moves constraints.txt to the newest versions, if every check and every test passes with them.

    python maintenance/upgrade.py [--torch VERSION] [--hold NAME==VERSION]

Resolves like maintenance/lock.py, prints which versions would change, and makes an environment with
them, .venv-upgrade. There it runs what `make test` runs. If all of it passes, constraints.txt is
written. If not, the table of what broke is printed, constraints.txt stays as it was and the exit
status is 1: keep a version that breaks with `--hold NAME==VERSION`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from breakage import table
from environments import Environment, stop_when_terminated
from lock import ResolutionError, add_options, holds_of, lock
from project import THIS, Project, pins


def changes(present: str, new: str) -> list[tuple[str, str, str]]:
    """Return name, present version and new version of each package that would change."""
    before, after = pins(present), pins(new)
    rows = [(name, before.get(name, "—"), after.get(name, "—")) for name in {**before, **after}]
    return sorted(row for row in rows if row[1] != row[2])


def changes_table(rows: Sequence[tuple[str, str, str]]) -> str:
    """Return the changes as a Markdown table."""
    lines = [("package", "from", "to"), ("---",) * 3, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def upgrade(project: Project, holds: Mapping[str, str], checks: Sequence[str]) -> int:
    """Resolve, try and, if nothing breaks, write; return the exit status."""
    present = project.constraints.read_text(encoding="utf-8")
    new = lock(project, holds)
    rows = changes(present, new)
    if not rows:
        print(f"{project.constraints.name} has the newest versions")
        return 0
    print(changes_table(rows), flush=True)
    broken = try_out(project, new, checks)
    if broken:
        print(f"\n{project.constraints.name} stays as it was. What broke:\n\n{broken}")
        return 1
    project.constraints.write_text(new, encoding="utf-8")
    print(f"\neverything passed; {project.constraints.name} is written")
    return 0


def try_out(project: Project, text: str, checks: Sequence[str]) -> str:
    """Return a table of what breaks with these constraints, empty if nothing does."""
    runs = project.root / "runs"
    runs.mkdir(exist_ok=True)
    constraints = runs / "upgrade-constraints.txt"
    constraints.write_text(text, encoding="utf-8")
    environment = Environment(project, project.root / ".venv-upgrade", runs / "upgrade.log")
    broken = environment.try_out(constraints, checks).broken
    return table(broken) if broken else ""


def main(
    arguments: Sequence[str] | None = None,
    project: Project = THIS,
    checks: Sequence[str] = ("check", "tools"),
) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description="Move constraints.txt to the newest versions.")
    add_options(parser)
    try:
        return upgrade(project, holds_of(parser.parse_args(arguments)), checks)
    except ResolutionError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    stop_when_terminated()
    sys.exit(main())
