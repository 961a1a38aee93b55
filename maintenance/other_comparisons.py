"""Compares two methods on training scripts of other people, with six seeds each, to a report.

    python maintenance/other_comparisons.py --checkout FOLDER [--only NAME ...] [--seeds 6]

The scripts are those of ``other_scripts.py``, unchanged and in one process. Each is compared with
itself under HiddenKey: ``hiddenkey compare --command`` of the method ``as-is`` against
``hiddenkey``. Prints a table, and writes it with the comparisons into runs/other_comparisons. The
exit status is 1 if a run failed, if two methods of one seed did not start from the same weights or
did not see the same batches, or if a site's observed drop rate is not near the configured one.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from other_scripts import RATE, TOLERANCE, Case, cases, install
from project import THIS

METRICS: Final = {
    "transformers run_classification.py": "eval_accuracy",
    "trl sft": "eval_loss",
    "Lightning Extractive-QA": "val_loss",
}
_FLAGS: Final = {
    "transformers run_classification.py": "--seed {seed} --output_dir {output}",
    "trl sft": "--seed {seed} --output_dir {output} --dataset_test_split test"
    " --eval_strategy steps --eval_steps 3",
    "Lightning Extractive-QA": "--seed_everything {seed} --trainer.default_root_dir {output}",
}
"""Where each script takes its seed and its output folder; the last of two equal flags counts."""

_COLUMNS: Final = ("script", "metric", "runs", "same start and batches", "observed rates", "report")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkout", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--seeds", type=int, default=6)
    given = parser.parse_args(arguments)
    runs = THIS.root / "runs" / "other_comparisons"
    shutil.rmtree(runs, ignore_errors=True)
    (runs / "work").mkdir(parents=True)
    install(THIS.root / "runs" / "other_scripts" / "packages")
    rows, faults = [], 0
    for case in cases(given.checkout.resolve(), runs / "work"):
        chosen = not given.only or any(name in case.name for name in given.only)
        if case.processes == 1 and chosen:
            shown = compare(case, runs, given.seeds)
            found = row(case, runs / case.name.replace(" ", "_"), given.seeds, shown)
            rows.append(found[0])
            faults += not found[1]
            print(" | ".join(rows[-1]), flush=True)
    lines = [_COLUMNS, ("---",) * len(_COLUMNS), *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    (runs / "other_comparisons.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 1 if faults or not rows else 0


def compare(case: Case, runs: Path, seeds: int) -> str:
    """Compare a script with itself under HiddenKey; return what the command printed."""
    texts = runs / "work" / "texts"
    if texts.is_dir() and not (texts / "test.jsonl").exists():  # what TRL's script evaluates on
        rows = [json.loads(line) for line in (texts / "train.jsonl").read_text().splitlines()]
        (texts / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:16]))
    packages = THIS.root / "runs" / "other_scripts" / "packages"
    paths = (str(packages), str(THIS.root / "src"), os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    words = [
        "compare", "--command", f"{shlex.join(case.command)} {_FLAGS[case.name]}",
        "--metric", METRICS[case.name], "--methods", "as-is", "hiddenkey", "--baseline", "as-is",
        "--rates", str(RATE), "--seeds", *map(str, range(seeds)), "--workers", "2",
        "--output", str(runs / case.name.replace(" ", "_")),
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "hiddenkey", *words],
        cwd=case.folder, env=environment, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    (runs / f"{case.name.replace(' ', '_')}.log").write_text(done.stdout, encoding="utf-8")
    return done.stdout


def row(case: Case, folder: Path, seeds: int, shown: str) -> tuple[list[str], bool]:
    """Return a script's line of the table, and whether all is as it should be."""
    paths = sorted(folder.glob("records/*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    done = [record for record in records if record["result"] is not None]
    alike = _alike(done)
    rates = [rate for record in done for rate in record["observed"]["sites"].values()]
    near = bool(rates) and all(abs(rate - RATE) < TOLERANCE for rate in rates)
    headline = next((line for line in shown.splitlines() if "step-matched: " in line), "none")
    cells = [
        case.name,
        METRICS[case.name],
        f"{len(done)} of {2 * seeds}",
        "yes" if alike else "no",
        f"{min(rates, default=0):.3f} to {max(rates, default=0):.3f}",
        headline.partition("step-matched: ")[2],
    ]
    whole = len(done) == 2 * seeds and (folder / "report" / "report.html").exists()
    return cells, whole and alike and near


def _alike(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether runs of equal seed began with the same weights, and saw the same batches."""
    seen: dict[int, set[tuple[str, str]]] = {}
    for record in records:
        observed = record["observed"]
        prints = (observed["weights"], observed["batches"])
        seen.setdefault(record["options"]["seed"], set()).add(prints)
    return all(len(prints) == 1 for prints in seen.values()) and len(seen) > 1


if __name__ == "__main__":
    sys.exit(main())
