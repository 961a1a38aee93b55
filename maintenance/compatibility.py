"""Tries the library with old and new versions of torch, transformers and PEFT.

Each row of ``docs/COMPATIBILITY.md`` is an environment of its own, kept in a folder so that a
second run is quick. Old builds of PyTorch come with several gigabytes of GPU libraries; ``--only``
takes the rows whose name contains a word.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import venv
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from project import THIS, lower_bounds, versions_here

LIBRARIES: Final = ("torch", "transformers", "peft", "accelerate")
ROWS: Final = (
    ("2.6.0", "4.57.6", "0.18.0", "1.12.0"),
    ("2.13.0", "4.57.6", "0.18.0", "1.15.0"),
    ("2.13.0", "5.0.0", "0.18.1", "1.15.0"),
    ("2.13.0", "5.10.4", "0.19.1", "1.15.0"),
    ("2.13.0", "5.20.2", "0.20.0", "1.15.0"),
    ("2.13.0", "5.23.0", "0.20.0", "1.15.0"),
    ("2.13.0", "5.23.0", "0.21.2", "1.15.0"),
    ("2.13.0", "5.24.0", "0.21.2", "1.15.0"),
)
"""Versions of :data:`LIBRARIES`, oldest first."""

_DOCUMENT: Final = THIS.root / "docs" / "COMPATIBILITY.md"
_RECORD: Final = THIS.root / "docs" / "compatibility.json"
_CHECKS: Final = THIS.root / "maintenance" / "environment_checks.py"
_LIMIT_SECONDS: Final = 600
_OTHERS: Final = ("trl", "lightning", "optuna", "datasets", "gguf", "scipy", "scikit-learn")

Result = Mapping[str, Any]


def name_of(row: Sequence[str]) -> str:
    """Return the name of a row's environment."""
    return "-".join(f"{library}{version}" for library, version in zip(LIBRARIES, row, strict=True))


def check(row: Sequence[str], environments: Path) -> dict[str, Any]:
    """Run the checks with these versions.

    Returns:
        What ``environment_checks.py`` found; ``error`` instead where it did not get so far.
    """
    python = environments / name_of(row) / "bin" / "python"
    wanted = dict(zip(LIBRARIES, row, strict=True))
    try:
        if not python.exists():
            _make(python.parents[1], row)
        printed = _run([str(python), str(_CHECKS), "--json"])
        found: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
        return {"versions": wanted, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    if found["versions"] != wanted:
        return {"versions": wanted, "error": f"the environment has {found['versions']}"}
    return found


def document(results: Iterable[Result], day: str) -> str:
    """Return the page."""
    results = list(results)
    checks = next(list(result["failures"]) for result in results if "failures" in result)
    notes: list[str] = []
    lines = [
        f"| {' | '.join([*LIBRARIES, *checks])} |",
        f"|{'---|' * (len(LIBRARIES) + len(checks))}",
        *(f"| {' | '.join(_cells(result, checks, notes))} |" for result in results),
    ]
    return _TEMPLATE.format(
        day=day,
        table="\n".join(lines),
        notes="\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1)),
        others=_others(),
    ).replace("\n\n\n", "\n\n")


def _cells(result: Result, checks: Sequence[str], notes: list[str]) -> list[str]:
    versions = [result["versions"][library] for library in LIBRARIES]
    if "error" in result:
        notes.append(result["error"])
        return [*versions, f"not run ({len(notes)})", *[""] * (len(checks) - 1)]
    return [*versions, *(_cell(result["failures"][name], notes) for name in checks)]


def _cell(failures: Mapping[str, str], notes: list[str]) -> str:
    if not failures:
        return "yes"
    notes.append("; ".join(f"{subject}: {why}" for subject, why in failures.items()))
    return f"not {', '.join(failures)} ({len(notes)})"


def _others() -> str:
    fixed = versions_here(THIS.constraints.read_text(encoding="utf-8"))
    bounds = lower_bounds(THIS.table, THIS.extra)
    return "\n".join(f"| {n} | {bounds.get(n, 'none')} | {fixed[n]} |" for n in _OTHERS)


def _make(folder: Path, row: Sequence[str]) -> None:
    """Make an environment with these versions; torch first, since its build is chosen by hand."""
    venv.create(folder, with_pip=True)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    pins = [f"{name}=={number}" for name, number in zip(LIBRARIES, row, strict=True)]
    _run([*install, "setuptools", "wheel", pins[0]])
    _run([*install, *pins])
    _run([*install, "--no-deps", "--no-build-isolation", "--editable", str(THIS.root)])


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        timeout=_LIMIT_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode not in (0, 1) or (done.returncode and not done.stdout):
        raise subprocess.CalledProcessError(done.returncode, command[-1])
    return done.stdout


def main() -> int:
    """Check the rows and write page and record; return 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only the rows whose name contains this")
    parser.add_argument(
        "--environments", type=Path, default=THIS.root / "runs" / "compatibility",
        help="folder of the environments; what is there is used again",
    )  # fmt: skip
    options = parser.parse_args()
    results = _recorded()
    for row in (row for row in ROWS if options.only in name_of(row)):
        results[name_of(row)] = found = check(row, options.environments)
        failed = [name for name, faults in found.get("failures", {}).items() if faults]
        print(name_of(row), found.get("error") or f"failed: {failed}" if failed else "ok")
    day = datetime.now(UTC).date().isoformat()
    rows = [results[name] for name in map(name_of, ROWS) if name in results]
    _RECORD.write_text(json.dumps({"day": day, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    _DOCUMENT.write_text(document(rows, day), encoding="utf-8")
    return int(any("error" in row or any(row["failures"].values()) for row in rows))


def _recorded() -> dict[str, dict[str, Any]]:
    if not _RECORD.exists():
        return {}
    rows = json.loads(_RECORD.read_text(encoding="utf-8"))["rows"]
    return {name_of([row["versions"][library] for library in LIBRARIES]): row for row in rows}


_TEMPLATE: Final = """# With which versions

hiddenkey serves torch from 2.6, transformers from 4.57 and PEFT from 0.18 on. `attach` warns once,
in one sentence, of a version outside of the range that was tried. The command line
(`hiddenkey[lab]`) needs the newer ones that `pyproject.toml` names. `make demo` and `make test` use
the versions of [`constraints.txt`](../constraints.txt); `make test-latest` runs the tests with the
newest releases.

Written by `make compatibility` on {day}, Python 3.11, on a CPU. To check your own environment, in
half a minute, run this in a checkout:

    python maintenance/environment_checks.py

{table}

{notes}

Each check runs on six tiny models with LoRA: BERT, LLaMA with fused and with eager attention,
GPT-2, Gemma 2, and a vision transformer without an adapter.

| check | what is shown |
|---|---|
| import | every public name loads |
| attach | both positions of HiddenKey are found in every layer |
| evaluation | outputs are bit-equal to those without the library |
| HiddenKey step | the loss's parts add up, drop rates are met, gradients are finite |
| padding | a span drops 30 % of each text's visible tokens and no padding |
| checkpointing | gradients with activation checkpointing equal those without |
| detach | no trace is left, and training is bit-equal to that of a model that never had it |
| Trainer | transformers' Trainer logs the parts of the loss and the observed drop rates |
| adapter | an adapter saved while attached loads into a plain model, with equal outputs |

What does not fit together, whatever this library does:

- PEFT 0.21.2's prefix tuning refuses classifiers of transformers 5.24, which renamed
  `past_key_values` to `cache`. `attach` and `hiddenkey train` say so. `transformers<5.24` with
  this PEFT works.
- transformers 5.24's own `add_adapter` wants PEFT 0.22 or later. `get_peft_model` works.

Other libraries, used by the command line or by trainers, are tried in one version each:

| library | lower bound | tried |
|---|---|---|
{others}

The lower bounds of these are the versions that were current when they were first used; older ones
were not tried. Python 3.11 is tried; later versions of Python are allowed and were not.
"""


if __name__ == "__main__":
    sys.exit(main())
