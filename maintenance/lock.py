"""Resolves the newest versions that pyproject.toml allows, for every platform.

    python maintenance/lock.py [--torch VERSION] [--hold NAME==VERSION] [--output FILE]

Prints the text of constraints.txt, or writes it to FILE. Nothing is installed or tested: `make
upgrade` does that too. PyTorch stays at the version of constraints.txt, since a new one brings
gigabytes with it; `--torch newest` or `--torch VERSION` moves it. The packages are looked up by uv,
which has settings of its own (UV_DEFAULT_INDEX, UV_FIND_LINKS) and reads none of pip's. No address
and no hash gets into the text.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement

from project import NEWEST, THIS, Project, files_only, versions_here

HEADER: Final = """\
# The versions that `make demo` and `make test` use, for every platform: give this file to pip as
# --constraint. `make upgrade` writes it. PyTorch's CPU builds leave the nvidia packages out.
# PyTorch is held at its version until another is asked for: maintenance/upgrade.py --torch VERSION.
"""
TRAILER: Final = "# Read as files, and installed without their own dependencies:\n"
_PIN: Final = re.compile(r"[a-z0-9][a-z0-9-]*==[^\s;@/]+( ; [^/@]+)?")


class ResolutionError(Exception):
    """No set of versions fits, or the resolver wrote something that is no version."""


def lock(project: Project, holds: Mapping[str, str]) -> str:
    """Return the text of a new constraints file.

    Args:
        project: what is locked.
        holds: versions that are given, by package; they go before those that are held anyway.

    Raises:
        ResolutionError: if no versions fit together.
    """
    present = project.constraints.read_text(encoding="utf-8")
    lines = resolve(project, {**held(project, present), **holds})
    ends = [f"{name}=={version}" for name, version in sorted(of_files(present).items())]
    for line in [*lines, *ends]:
        if not _PIN.fullmatch(line):
            raise ResolutionError(f"a line must be NAME==VERSION with or without a marker: {line}")
    return HEADER + "\n".join(lines) + "\n" + (TRAILER + "\n".join(ends) + "\n" if ends else "")


def held(project: Project, present: str) -> dict[str, str]:
    """Return the packages that an upgrade leaves alone, with their present versions."""
    versions = versions_here(present)
    return {name: versions[name] for name in project.held if name in versions}


def of_files(present: str) -> dict[str, str]:
    """Return the packages that are only read as files, with the versions whose files fit."""
    from hiddenkey.lab import assets

    known = {
        asset.package: asset.version
        for asset in vars(assets).values()
        if isinstance(asset, assets.Asset)
    }
    return {name: known.get(name, version) for name, version in files_only(present).items()}


def resolve(project: Project, holds: Mapping[str, str]) -> list[str]:
    """Return one line for each package, with a marker where a platform or a Python differs."""
    wanted = [f"{name}=={version}" for name, version in holds.items() if version != NEWEST]
    with tempfile.TemporaryDirectory() as folder:
        more = Path(folder, "requirements.in")
        more.write_text("\n".join([*project.build_tools, *wanted]) + "\n", encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--python-version",
             oldest_python(project), "--strip-extras", "--no-annotate", "--no-header", "--quiet",
             "--extra", project.extra, "pyproject.toml", str(more)],
            cwd=project.root, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise ResolutionError(done.stderr.strip())
    return done.stdout.split("\n")[:-1]


def oldest_python(project: Project) -> str:
    """Return the oldest Python that the project supports."""
    return str(project.table["requires-python"]).removeprefix(">=")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which versions are given."""
    parser.add_argument("--torch", metavar="VERSION", help=f"PyTorch's version, or {NEWEST}")
    parser.add_argument(
        "--hold", metavar="NAME==VERSION", type=_pin, action="append", default=[],
        help="keep a package at this version; may be repeated",
    )  # fmt: skip


def holds_of(options: argparse.Namespace) -> dict[str, str]:
    """Return the versions that the options give, by package."""
    torch = {"torch": options.torch} if options.torch else {}
    return {**torch, **dict(options.hold)}


def _pin(text: str) -> tuple[str, str]:
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise argparse.ArgumentTypeError(f"not NAME==VERSION: {text}") from error
    specifiers = list(requirement.specifier)
    if [one.operator for one in specifiers] != ["=="]:
        raise argparse.ArgumentTypeError(f"not NAME==VERSION: {text}")
    return requirement.name, specifiers[0].version


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description="Resolve the newest versions.")
    add_options(parser)
    parser.add_argument("--output", type=Path, help="file to write (default: print)")
    options = parser.parse_args(arguments)
    try:
        text = lock(THIS, holds_of(options))
    except ResolutionError as error:
        print(error, file=sys.stderr)
        return 1
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
