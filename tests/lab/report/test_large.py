"""A large comparison: 2,000 runs within the memory that is promised.

Its time is measured by benchmarks/large_report.py: a limit in seconds would judge the machine.
"""

import os
import subprocess
import sys

from lab.report.synthetic import record, study

METHODS = (
    "lora", "dropkey", "dropkey-span", "dropkey-element", "dropattention", "hiddencut",
    "hiddencut-element", "cutoff", "hiddenkey-minus", "hiddenkey",
)  # fmt: skip
PROGRAM = r"""
import re, sys
from pathlib import Path
from hiddenkey.cli.main import main
main(["report", sys.argv[1]])
# ru_maxrss of getrusage would be that of the process that started this one, where that is larger
peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
print(peak / 1024)
"""


def large_study():
    """Return 2,000 runs: 5 tasks, 10 methods, 4 rates, 10 or 11 seeds, and some that failed."""
    runs = study(
        tasks=("headlines", "articles", "cola", "rte", "stsb"),
        chosen=METHODS,
        rates=(0.05, 0.1, 0.2, 0.3),
        seeds=range(10),
        gains={"hiddenkey": 0.02},
        evaluations=10,
    )
    error = "Traceback\n" + "  a line of a traceback\n" * 40 + "RuntimeError: out of memory"
    failed = 2000 - len(runs)
    return runs + [
        record(method="dropkey", rate=0.1, seed=50 + s, error=error) for s in range(failed)
    ]


def test_2000_runs_take_a_gibibyte_at_most(tmp_path):
    for run in large_study():
        run.save(tmp_path)
    assert len(list((tmp_path / "records").iterdir())) == 2000
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env=environment, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    peak = float(done.stdout.splitlines()[-1])
    page = (tmp_path / "report" / "report.html").stat().st_size / 2**20
    print(f"{peak:.0f} MiB at the peak, page of {page:.1f} MiB")
    assert peak < 1024
    assert page < 8
