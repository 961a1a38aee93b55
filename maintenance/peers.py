"""Runs transformers' own tests of its models plain and attached at rate 0, and compares.

    python maintenance/peers.py [--checkout FOLDER] [--models bert llama ...] [--minutes M]

The tests are those of the installed release. They come with its source distribution, which is
downloaded into runs/peers. Where a release leaves the tests of the models out of it, FOLDER is a
checkout of transformers, best at the tag of that release; what the source distribution does have is
not taken from FOLDER. Packages that the tests import beyond this project's are installed into
runs/peers/packages.

A test is lost if it passes plain and, twice, does not pass attached. M is the time limit for the
tests of one architecture. Prints a table and the names of the lost tests, and writes
runs/peers/peers.json and runs/peers/peers.log. The exit status is 1 if a test is lost, or if no
test of an architecture ran.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Final

from project import THIS

MODELS: Final = (
    *("bert", "roberta", "gpt2", "llama", "mistral", "qwen2", "qwen3", "t5", "bart", "vit"),
)
PACKAGES: Final = ("parameterized", "httpx", "timeout_decorator")
"""What transformers' tests import, and neither transformers nor this project needs."""

_PLUGIN: Final = Path(__file__).resolve().parent
_QUIET: Final = ("-q", "-p", "no:cacheprovider", "-W", "ignore", "-p", "no:logging")


@dataclass
class Comparison:
    """What came of one architecture's tests.

    Attributes:
        model: the architecture.
        plain: outcome of each test without attachment.
        attached: outcome of each test attached at rate 0.
        models: how many models were attached to.
        refused: how many could not be, such as those without layers.
    """

    model: str
    plain: dict[str, str]
    attached: dict[str, str]
    models: int
    refused: int

    @property
    def lost(self) -> list[str]:
        """The tests that pass plain and not attached."""
        passed = [test for test, outcome in self.plain.items() if outcome == "passed"]
        return [test for test in passed if self.attached.get(test) != "passed"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests, and say which of them pass plain alone."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkout", type=Path, metavar="FOLDER")
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="MODEL")
    parser.add_argument("--minutes", type=float, default=20.0, metavar="M")
    given = parser.parse_args(arguments)
    runs = THIS.root / "runs" / "peers"
    folder = gather(runs, given.checkout)
    install(runs / "packages")
    found = [compare(folder, model, 60 * given.minutes) for model in given.models]
    versions = {name: version(name) for name in ("hiddenkey", "torch", "transformers")}
    record = {"date": date.today().isoformat(), "versions": versions}
    rows = [{**asdict(comparison), "lost": comparison.lost} for comparison in found]
    text = json.dumps({**record, "models": rows}, indent=1)
    (runs / "peers.json").write_text(text + "\n", encoding="utf-8")
    print(table(found))
    silent = [comparison.model for comparison in found if not comparison.plain]
    if silent:
        print(f"No test ran of {', '.join(silent)}; see {runs / 'peers.log'}")
    lost = [test for comparison in found for test in comparison.lost]
    print("Lost, since they pass plain and not attached:", *(lost or ["none"]), sep="\n  ")
    return 1 if lost or silent else 0


def gather(runs: Path, checkout: Path | None) -> Path:
    """Return a folder with the installed release's sources and tests.

    Raises:
        SystemExit: if the tests of the models are nowhere.
    """
    name = f"transformers-{version('transformers')}"
    folder = runs / name
    if not folder.exists():
        download(runs, name)
        with tarfile.open(runs / f"{name}.tar.gz") as archive:
            archive.extractall(runs, filter="data")
    for part in ("tests", "utils", "conftest.py") if checkout else ():
        copy_missing(checkout / part, folder / part)
    if not (folder / "tests" / "models").is_dir():
        raise SystemExit(
            f"{name}.tar.gz has no tests/models; give a checkout of transformers at the tag"
            f" {name.replace('transformers-', 'v')}: --checkout FOLDER"
        )
    return folder


def download(runs: Path, name: str) -> None:
    """Download the source distribution of the installed release."""
    runs.mkdir(parents=True, exist_ok=True)
    options = ("--no-binary", ":all:", "--no-deps", "--no-build-isolation")
    wanted = name.replace("-", "==")
    pip = (sys.executable, "-m", "pip", "download", "--quiet", *options, wanted)
    subprocess.run([*pip, "--dest", str(runs)], check=True)


def copy_missing(source: Path, target: Path) -> None:
    """Copy a file, or the files of a folder, where there is none yet."""
    if source.is_dir():
        for inside in source.iterdir():
            copy_missing(inside, target / inside.name)
    elif source.exists() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def install(packages: Path) -> None:
    """Install what the tests import and is not there, beside the environment."""
    sys.path.append(str(packages))
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--target", str(packages))
        subprocess.run([*pip, *missing], check=True)


def compare(folder: Path, model: str, seconds: float) -> Comparison:
    """Run one architecture's tests plain and attached; what fails attached runs once more."""
    tests = [f"tests/models/{model}/test_modeling_{model}.py"]
    plain, _ = run(folder, tests, seconds)
    attached, counts = run(folder, tests, seconds, "--attached")
    found = Comparison(model, plain, attached, *counts)
    if found.lost and len(attached) > 0:
        again, _ = run(folder, found.lost, seconds, "--attached")
        passed = {test: outcome for test, outcome in again.items() if outcome == "passed"}
        found.attached.update(passed)
    return found


def run(
    folder: Path, tests: Collection[str], seconds: float, *options: str
) -> tuple[dict[str, str], tuple[int, int]]:
    """Run tests of transformers.

    Returns:
        Outcome of each test, and how many models were attached to and refused.
    """
    outcomes = folder.parent / "outcomes.jsonl"
    outcomes.unlink(missing_ok=True)
    paths = (str(_PLUGIN), str(folder.parent / "packages"), os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    pytest = (sys.executable, "-m", "pytest", *_QUIET, "-p", "peers_plugin")
    with (folder.parent / "peers.log").open("a", encoding="utf-8") as log:
        try:
            subprocess.run(
                [*pytest, "--outcomes", str(outcomes), *options, *tests],
                cwd=folder, env=environment, stdout=log, stderr=log, timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            print(f"stopped after {seconds / 60:g} minutes: {', '.join(tests)}", file=sys.stderr)
    text = outcomes.read_text(encoding="utf-8") if outcomes.exists() else ""
    lines = [json.loads(line) for line in text.splitlines()]
    last = lines[-1] if lines else {}
    found = {line["test"]: line["outcome"] for line in lines}
    return found, (last.get("attached", 0), last.get("refused", 0))


def table(found: Sequence[Comparison]) -> str:
    """Return one row for each architecture, as Markdown."""
    columns = ("model", "pass plain", "pass attached", "lost", "models attached", "refused")
    rows = [columns, ("---",) * len(columns)]
    rows += [
        (
            one.model,
            str(list(one.plain.values()).count("passed")),
            str(list(one.attached.values()).count("passed")),
            str(len(one.lost)),
            str(one.models),
            str(one.refused),
        )
        for one in found
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
