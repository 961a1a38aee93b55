"""How the time of ``hiddenkey report`` grows with the runs of a study.

    python benchmarks/large_report.py [--turns 3] [--output FILE]

The studies hold made-up runs, as the tests' do: five tasks, ten methods, four rates, and as many
seeds as the size asks for. Each report is a fresh process, and the sizes take turns. The time is
the processor time of the whole process, all threads together, and beside it is its ratio to that
of the smallest study: a time that grows with the runs stays at the ratio of their numbers or below.

Prints a Markdown table; FILE gets every number and the environment as JSON.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from harness import markdown, write_record

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from lab.report.synthetic import study

METHODS = (
    "lora", "dropkey", "dropkey-span", "dropkey-element", "dropattention", "hiddencut",
    "hiddencut-element", "cutoff", "hiddenkey-minus", "hiddenkey",
)  # fmt: skip
RATES = (0.05, 0.1, 0.2, 0.3)
TASKS = ("headlines", "articles", "cola", "rte", "stsb")
SEEDS = (2, 5, 10)


def write_study(folder: Path, seeds: int) -> int:
    """Save the runs of one study; return how many they are."""
    runs = study(tasks=TASKS, chosen=METHODS, rates=RATES, seeds=range(seeds), evaluations=10)
    for run in runs:
        run.save(folder)
    return len(runs)


def report_seconds(folder: Path) -> float:
    """Processor seconds of one ``hiddenkey report``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "hiddenkey", "report", str(folder)], check=True, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(turns: int) -> dict[int, list[float]]:
    """Seconds of each turn by the number of runs."""
    with tempfile.TemporaryDirectory() as place:
        folders = {}
        for seeds in SEEDS:
            folder = Path(place, str(seeds))
            folder.mkdir()
            folders[write_study(folder, seeds)] = folder
        found: dict[int, list[float]] = {runs: [] for runs in folders}
        for _ in range(turns):
            for runs, folder in folders.items():
                found[runs].append(report_seconds(folder))
    return found


def table(found: Mapping[int, list[float]]) -> str:
    """A row for each size."""
    first = min(found)
    least = statistics.median(found[first])
    rows = []
    for runs, seconds in found.items():
        middle = statistics.median(seconds)
        rows.append([f"{runs:,}", f"{middle:.1f}", f"{middle / least:.2f}", f"{runs / first:.2f}"])
    return markdown(["runs", "processor s", "of the smallest's", "runs of the smallest's"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3, help="reports of each study")
    parser.add_argument("--output", type=Path, help="JSON file for every number")
    arguments = parser.parse_args()
    found = measure(arguments.turns)
    print(table(found))
    write_record(arguments.output, arguments, [{"runs": k, "s": v} for k, v in found.items()])


if __name__ == "__main__":
    main()
