"""What the benchmarks share: turns instead of separate runs, memory that can be trusted, records.

Time. The cases take turns, call by call, in one process, so that a slower moment of the machine
meets all of them; a case is judged by its ratio to the baseline of the same turn.

Memory. On a GPU the allocator's own peak. On a CPU each case runs in a fresh process, and the peak
of its resident set (VmHWM, which Linux resets on request) is read: that counts every page that was
touched, also by a BLAS library, and nothing that an earlier case left behind can hide it. glibc is
told there to give each tensor pages of its own; see ``ALLOCATOR``.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

MIB = 2**20

# Variables of a process whose memory is measured. Each block from 64 KiB on, which is each tensor
# that counts, then gets pages of its own, and they go back when it is freed. By default glibc keeps
# freed blocks and raises that threshold as it meets larger ones: a later tensor may then fit into
# what is kept and not be seen at all, and a heap that is broken up adds half as much again.
# Linux's own count lags by a quarter of a MiB, so that calls of one or two MiB stay uncertain.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def synchronise(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def by_turns(
    cases: Mapping[str, Callable[[], object]],
    turns: int,
    *,
    warm_up: int = 1,
    lead_in: int = 0,
    device: str = "cpu",
) -> dict[str, list[float]]:
    """Return the seconds of each call of each case, in the order of the measured turns.

    ``lead_in`` calls of the same case go untimed before each timed one, so that caches and the
    allocator are as this case leaves them and not as its neighbour does: after a case with large
    tensors a call of a few milliseconds takes 6 to 8 % longer.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(warm_up + turns):
        for name, case in cases.items():
            for _ in range(lead_in):
                case()
            synchronise(device)
            started = time.perf_counter()
            case()
            synchronise(device)
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


@dataclass(frozen=True)
class Timing:
    """One case beside its baseline.

    Attributes:
        median_ms: median of its calls in milliseconds.
        ratio: median over the turns of its time to the baseline's.
        low: lower quartile of that.
        high: upper quartile of that.
        mean_ratio: ratio of the mean times; what counts where calls differ by design.
    """

    median_ms: float
    ratio: float
    low: float
    high: float
    mean_ratio: float

    @property
    def spread(self) -> str:
        return f"{self.low:.2f} to {self.high:.2f}"


def compare(own: Sequence[float], base: Sequence[float]) -> Timing:
    """Sum up one case's calls beside the baseline's of the same turns."""
    ratios = [a / b for a, b in zip(own, base, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return Timing(
        statistics.median(own) * 1000,
        middle,
        low,
        high,
        statistics.mean(own) / statistics.mean(base),
    )


def transient_bytes(case: Callable[[], object], device: str = "cpu") -> int:
    """Return what one call needs at most beyond what is held before it.

    On a CPU the process should have done nothing else but a small call that loads libraries.
    """
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        case()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    case()
    return resident_bytes("VmHWM") - before


def resident_bytes(name: str) -> int:
    """Return a line of /proc/self/status: VmRSS is what is resident now, VmHWM its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}; memory is measured on Linux only")


def in_own_process(script: str, arguments: Sequence[object]) -> int:
    """Run a benchmark script in a fresh process and return the number it prints last."""
    return numbers_of_own_process(script, arguments)[-1]


def numbers_of_own_process(
    script: str, arguments: Sequence[object], variables: Mapping[str, str] | None = None
) -> list[int]:
    """Run a benchmark script in a fresh process and return the numbers of its last line.

    Args:
        script: path of the script.
        arguments: of its command line.
        variables: environment variables that it gets besides this process's own and ``ALLOCATOR``.
    """
    command = [sys.executable, script, *map(str, arguments)]
    own = {**os.environ, **ALLOCATOR, **(variables or {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=own)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return [int(word) for word in done.stdout.splitlines()[-1].split()]


def environment(device: str = "cpu") -> dict[str, Any]:
    """Return what the numbers depend on: date, machine and versions."""
    import transformers

    found = {
        "date": date.today().isoformat(),
        "machine": f"{_processor()}, {os.cpu_count()} CPUs, {platform.system()}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if device != "cpu":
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    return found


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def write_record(path: Path | None, arguments: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write every number with its settings and environment as JSON; ``None``: nowhere."""
    if path is None:
        return
    settings = {k: v if isinstance(v, int | float | list) else str(v)
                for k, v in vars(arguments).items() if v is not None}  # fmt: skip
    record = {
        "environment": environment(getattr(arguments, "device", "cpu")),
        "arguments": settings,
        "rows": list(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*: (.+)", lines)
    return found.group(1) if found else platform.machine()
