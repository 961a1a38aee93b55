"""How long a user waits for ``import hiddenkey`` and for the ``--help`` of every command.

    python benchmarks/startup.py [--turns 15] [--output FILE]

Each call is a fresh process, and the cases take turns, so that a slower moment of the machine meets
all of them; turns before the first measured one fill the caches of files and bytecode. Imports are
timed inside the process, around the statement alone: ``import torch``, and after it what
``import hiddenkey`` adds. Public names are loaded when they are first used, so that a second row
loads all of them: that is what a script waits for that attaches a configuration. ``--help`` is
timed from outside, from the start of the process to its end; so is an interpreter that does
nothing, which is part of it.

*CPU* is what the process spent itself, all threads together: beside a shorter wall time it says
that threads shared the work, beside a longer one that it waited, for files or for a busy machine.
Targets are for the median wall time.

Prints a Markdown table; FILE gets every number and the environment as JSON.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import markdown, write_record
from hiddenkey.cli.commands import COMMANDS

WARM_UP = 1
TIMED = """
import time
{before}
wall, cpu = time.perf_counter(), time.process_time()
{statement}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""
EVERY_NAME = "import hiddenkey\nfor name in hiddenkey.__all__: getattr(hiddenkey, name)"


@dataclass(frozen=True)
class Case:
    """One thing to wait for.

    Attributes:
        command: arguments of the interpreter.
        times_itself: it prints its wall and CPU seconds; otherwise the whole process counts.
        target_ms: what the median should not exceed.
    """

    command: tuple[str, ...]
    times_itself: bool = False
    target_ms: float | None = None


def timed(statement: str, before: str = "", target_ms: float | None = None) -> Case:
    """A statement that is timed inside its process."""
    code = TIMED.format(before=before, statement=statement)
    return Case(("-c", code), times_itself=True, target_ms=target_ms)


CASES: Mapping[str, Case] = {
    "`import torch`": timed("import torch"),
    "after it, `import hiddenkey`": timed("import hiddenkey", "import torch", 50),
    "after it, all public names of hiddenkey": timed(EVERY_NAME, "import torch", 50),
    "an interpreter that does nothing": Case(("-c", "")),
    **{
        f"`{' '.join(['hiddenkey', *words])} --help`": Case(
            ("-m", "hiddenkey.cli.main", *words, "--help"), target_ms=500
        )
        for words in (
            [],
            *([name] for name in COMMANDS),
            *(["doctor", flag] for flag in COMMANDS["doctor"].instead),
        )
    },
}


def measure(case: Case) -> tuple[float, float]:
    """Wall and CPU seconds of one fresh process."""
    # where bytecode may not be written each process would compile the sources once more
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, *case.command]
    cpu, wall = cpu_of_children(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    wall, cpu = time.perf_counter() - wall, cpu_of_children() - cpu
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    if case.times_itself:
        wall, cpu = map(float, done.stdout.splitlines()[-1].split())
    return wall, cpu


def cpu_of_children() -> float:
    """CPU seconds of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_by_turns(turns: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of each case, in the order of the measured turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    for turn in range(WARM_UP + turns):
        for name, case in CASES.items():
            seconds = measure(case)
            if turn >= WARM_UP:
                found[name].append(seconds)
    return found


def row_of(name: str, seconds: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Sum up the turns of one case."""
    wall, cpu = ([1000 * second for second in each] for each in zip(*seconds, strict=True))
    low, median, high = statistics.quantiles(wall, n=4) if len(wall) > 1 else wall * 3
    target = CASES[name].target_ms
    return {
        "case": name,
        "median_ms": median,
        "quartiles": [low, high],
        "cpu_ms": statistics.median(cpu),
        "target_ms": target,
        "met": None if target is None else median <= target,
        "wall_ms": wall,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row for each case, with its target where it has one."""
    lines = []
    for row in rows:
        low, high = row["quartiles"]
        target = ""
        if row["target_ms"] is not None:
            target = f"{row['target_ms']:g} ms: {'met' if row['met'] else 'missed'}"
        lines.append([row["case"], f"{row['median_ms']:.1f}", f"{low:.1f} to {high:.1f}",
                      f"{row['cpu_ms']:.1f}", target])  # fmt: skip
    return markdown(["what", "median ms", "quartiles", "CPU ms", "target"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=15, help="measured processes of each case")
    parser.add_argument("--output", type=Path, help="JSON file for every number")
    arguments = parser.parse_args()
    print(f"{arguments.turns} fresh processes of each, by turns\n")
    rows = [row_of(name, seconds) for name, seconds in measure_by_turns(arguments.turns).items()]
    print(table(rows))
    write_record(arguments.output, arguments, rows)


if __name__ == "__main__":
    main()
