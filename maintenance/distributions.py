"""Builds the wheel and the sdist from the tracked files, and runs what was installed from them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

_OF_THE_CALLER: Final = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "WORLD_SIZE")
"""Variables that would let an environment see more than what was installed into it."""


@dataclass(frozen=True)
class Distributions:
    """What was built.

    Attributes:
        sdist: the source distribution.
        wheel: the wheel that was built from it.
        wheel_of_the_tree: the wheel that was built from the tracked files themselves.
    """

    sdist: Path
    wheel: Path
    wheel_of_the_tree: Path


def build(root: Path, folder: Path) -> Distributions:
    """Build the distributions of a project in a new folder, with the setuptools that is installed.

    Args:
        root: folder of the project, a Git repository.
        folder: where the copy of the files and what is built from it go.

    Raises:
        subprocess.CalledProcessError: if a build fails; its output says why.
    """
    tree = folder / "tree"
    copy_tracked(root, tree)
    _build(tree, folder / "dist")
    _build(tree, folder / "dist of the tree", "--wheel")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    (direct,) = (folder / "dist of the tree").glob("*.whl")
    return Distributions(sdist, wheel, direct)


def copy_tracked(root: Path, folder: Path) -> None:
    """Copy the files that Git tracks, as they are in the working tree; links stay links."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if os.path.lexists(root / name):  # a file may be removed and still tracked
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name, follow_symlinks=False)


def _build(tree: Path, output: Path, *kinds: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), *kinds, "."],
        cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True,
    )  # fmt: skip


def wheel_files(wheel: Path) -> set[str]:
    """Return the paths in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def sdist_files(sdist: Path) -> set[str]:
    """Return the paths of the files in an sdist, below its one folder."""
    with tarfile.open(sdist) as archive:
        names = [PurePosixPath(member.name) for member in archive if member.isfile()]
    return {str(name.relative_to(name.parts[0])) for name in names}


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Attributes:
        python: its interpreter.
        scripts: folder of its commands.
    """

    python: Path
    scripts: Path

    @classmethod
    def make(cls, folder: Path, *, with_pip: bool) -> Environment:
        """Make an empty environment in a folder."""
        builder = venv.EnvBuilder(with_pip=with_pip, symlinks=os.name != "nt")
        builder.create(folder)
        context = builder.ensure_directories(folder)
        return cls(Path(context.env_exe), Path(context.bin_path))

    def run(
        self, words: Sequence[str], folder: Path, seconds: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment, or ``python``, and return what it printed.

        Args:
            words: the command and its arguments.
            folder: the folder in which it runs.
            seconds: time limit.

        Raises:
            subprocess.TimeoutExpired: if the time limit comes first.
        """
        command, *arguments = words
        program = self.python if command == "python" else self.scripts / command
        return subprocess.run(
            [str(program), *arguments], cwd=folder, env=self._variables(), timeout=seconds,
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip

    def _variables(self) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in _OF_THE_CALLER}
        kept["PATH"] = os.pathsep.join([str(self.scripts), os.environ.get("PATH", "")])
        return {"HF_HUB_OFFLINE": "1", **kept}
