"""Time and memory of one attention call with dropped keys, relative to plain SDPA.

    python benchmarks/attention.py [--keys 128 256 512 1024 2048 4096] [--kinds encoder causal]
        [--layouts mha gqa] [--head-dims 64 128] [--padding] [--heads 8] [--batch 2] [--rate 0.1]
        [--dtype float32] [--device cpu] [--cases NAME ...] [--turns 50] [--seconds 15]
        [--threads 1] [--no-memory] [--limit-gib 4] [--quick] [--output FILE]

Forward and backward of softmax(QKᵀ)V as an attention module of transformers calls it: query, key
and value come strided from their projections, the output goes back to ``[batch, tokens, heads,
head_dim]``. The baseline is ``scaled_dot_product_attention`` of the same shape, with ``is_causal``,
``enable_gqa`` (``gqa`` has four query heads to a key head) and, with ``--padding``, the boolean
mask that transformers makes where the last quarter of each sequence is padded. The other cases are
described in attention_cases.py.

Time: the cases take turns in one process, and a short call is timed right after an untimed one of
its own case; the ratio is the median over the turns, with its quartiles. Cases that hold whole
attention maps take turns of their own with the baseline, so that what they do to caches and
allocator reaches nobody else; their ratio is to the baseline of those turns. Slow calls get fewer
turns: about ``--seconds`` for the calls of a case, but at least three turns.

Memory: *transient* is what forward and backward need at most beyond their inputs (on a CPU by the
resident set of a fresh process, on a GPU by the allocator); the output and the gradients of query,
key and value are part of it. *Peak* adds the inputs, which include the gradient of the output.

A case that cannot run, or whose attention maps would not fit in ``--limit-gib``, is named on stderr
with the reason. Cases that use the mask drawn beforehand are compared with the reference first.
Prints a Markdown table for each kind, layout and head dimension.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from attention_cases import BASELINE, CASES, MAIN, check, pass_of
from attention_inputs import QUERY_HEADS_PER_KEY_HEAD, Setting, make_inputs
from harness import MIB, by_turns, compare, in_own_process, markdown, transient_bytes, write_record

TINY = 128  # keys of the call that loads libraries and finds out whether a case runs
MINIMUM_TURNS = 3
LEAD_IN_BELOW = 0.1  # seconds; to longer calls a neighbour with fused kernels does nothing
QUICK = {
    "keys": [128, 512, 1024],
    "layouts": ["mha"],
    "head_dims": [64],
    "cases": MAIN,
    "seconds": 1.5,
}


def runnable(setting: Setting, arguments: argparse.Namespace) -> list[str]:
    """The cases that run here, the baseline first; the others are named on stderr."""
    names = [BASELINE]
    for name, case in CASES.items():
        if name == BASELINE or name not in arguments.cases:
            continue
        if case.is_gpu_only and arguments.device == "cpu":
            continue
        try:
            x = make_inputs(dataclasses.replace(setting, keys=TINY), arguments)
            pass_of(case, x)()
            if case.is_checked:
                check(case, x)
            names.append(name)
        except Exception as error:  # whatever a kernel does not support here
            first_line = str(error).partition("\n")[0]
            reason = f"{type(error).__name__}: {first_line}"
            leave_out(name, f"{setting.kind}, {setting.layout}", reason)
    return names


def fitting(names: list[str], setting: Setting, arguments: argparse.Namespace) -> list[str]:
    """Without the cases whose attention maps need more memory than allowed."""
    kept = []
    for name in names:
        pairs = arguments.batch * arguments.heads * setting.keys**2
        gib = CASES[name].pair_bytes * pairs / 2**30
        if gib <= arguments.limit_gib:
            kept.append(name)
        else:
            leave_out(name, f"{setting.keys} keys", f"needs about {gib:.1f} GiB (--limit-gib)")
    return kept


def leave_out(name: str, where: str, reason: str) -> None:
    print(f"left out: {name} ({where}): {reason}", file=sys.stderr)


def timings(
    names: list[str], setting: Setting, arguments: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """What the columns on time say, by case."""
    x = make_inputs(setting, arguments)
    found: dict[str, dict[str, Any]] = {}
    for holds_maps in (False, True):
        group = [n for n in names if n != BASELINE and bool(CASES[n].pair_bytes) is holds_maps]
        if not group and found:
            continue
        passes = {name: pass_of(CASES[name], x) for name in (BASELINE, *group)}
        probe = by_turns(passes, 1, device=arguments.device)
        slowest = max(second for (second,) in probe.values())
        lead_in = int(slowest < LEAD_IN_BELOW)
        affordable = int(arguments.seconds / (slowest * (1 + lead_in)))
        turns = max(MINIMUM_TURNS, min(arguments.turns, affordable))
        seconds = by_turns(passes, turns, warm_up=0, lead_in=lead_in, device=arguments.device)
        for name in passes:
            timing = compare(seconds[name], seconds[BASELINE])
            found.setdefault(name, {"turns": turns, **dataclasses.asdict(timing)})
    return found


def measured_bytes(name: str, setting: Setting, arguments: argparse.Namespace) -> int:
    """Transient bytes; on a CPU in this process, which should have done nothing else."""
    tiny = make_inputs(dataclasses.replace(setting, keys=TINY), arguments)
    pass_of(CASES[name], tiny)()  # loads libraries
    both = pass_of(CASES[name], make_inputs(setting, arguments))
    if arguments.device != "cpu":
        both()  # compiles, and lets the libraries take their workspaces
    return transient_bytes(both, arguments.device)


def transient(name: str, setting: Setting, arguments: argparse.Namespace) -> int:
    if arguments.device != "cpu":
        return measured_bytes(name, setting, arguments)
    return in_own_process(__file__, [
        *sys.argv[1:], "--measure", name, "--kinds", setting.kind, "--layouts", setting.layout,
        "--head-dims", setting.head_dim, "--keys", setting.keys,
    ])  # fmt: skip


def memory_of(names: list[str], setting: Setting, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the memory columns say, by case."""
    held = make_inputs(setting, arguments).nbytes
    with ThreadPoolExecutor(2 if arguments.device == "cpu" else 1) as processes:
        each = processes.map(lambda name: transient(name, setting, arguments), names)
        growth = dict(zip(names, each, strict=True))
    base = growth[BASELINE]
    return {
        name: {
            "transient_mib": own / MIB,
            "transient_ratio": own / base,
            "peak_mib": (held + own) / MIB,
            "peak_ratio": (held + own) / (held + base),
        }
        for name, own in growth.items()
    }


def rows_of(
    names: list[str], setting: Setting, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    names = fitting(names, setting, arguments)
    memory = {} if arguments.no_memory else memory_of(names, setting, arguments)
    for name, timing in timings(names, setting, arguments).items():
        yield {**dataclasses.asdict(setting), "case": name, **timing, **memory.get(name, {})}


COLUMNS = ["keys", "case", "turns", "median ms", "time", "quartiles"]
MEMORY_COLUMNS = ["transient MiB", "transient", "peak MiB", "peak"]


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row as the table shows it."""
    shown = [
        str(row["keys"]),
        row["case"],
        str(row["turns"]),
        f"{row['median_ms']:.2f}" if row["median_ms"] < 100 else f"{row['median_ms']:.0f}",
        f"{row['ratio']:.2f}×",
        f"{row['low']:.2f} to {row['high']:.2f}",
    ]
    if "peak_mib" in row:
        shown += [f"{row['transient_mib']:.1f}", f"{row['transient_ratio']:.2f}×"]
        shown += [f"{row['peak_mib']:.1f}", f"{row['peak_ratio']:.2f}×"]
    return shown


def print_table(
    kind: str, layout: str, head_dim: int, arguments: argparse.Namespace
) -> Iterator[list[dict[str, Any]]]:
    """Measure and print one table; yield the rows of each number of keys when they are there."""
    columns = COLUMNS if arguments.no_memory else COLUMNS + MEMORY_COLUMNS
    print(f"\n{kind}, {layout}, head dimension {head_dim}\n\n{markdown(columns, [])}", flush=True)
    settings = [Setting(kind, layout, head_dim, keys) for keys in arguments.keys]
    names = runnable(settings[0], arguments)
    for setting in settings:
        rows = list(rows_of(names, setting, arguments))
        body = markdown(columns, [cells(row) for row in rows]).splitlines()[2:]
        print("\n".join(body), flush=True)
        yield rows


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--kinds", nargs="+", default=["encoder", "causal"],
                        choices=["encoder", "causal"])  # fmt: skip
    parser.add_argument("--layouts", nargs="+", default=list(QUERY_HEADS_PER_KEY_HEAD),
                        choices=list(QUERY_HEADS_PER_KEY_HEAD))  # fmt: skip
    parser.add_argument("--head-dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--padding", action="store_true", help="pad a quarter of the keys")
    parser.add_argument("--heads", type=int, default=8, help="query heads")
    parser.add_argument("--batch", type=int, default=2, help="sequences")
    parser.add_argument("--rate", type=float, default=0.1, help="dropout rate")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--turns", type=int, default=50, help="measured turns, at most")
    parser.add_argument("--seconds", type=float, default=15, help="for the calls of one case")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-memory", action="store_true", help="measure time alone")
    parser.add_argument("--limit-gib", type=float, default=4, help="for attention maps")
    parser.add_argument("--quick", action="store_true", help="main cases, two tables, 2 minutes")
    parser.add_argument("--output", type=Path, help="JSON file for every number")
    parser.add_argument("--measure", choices=list(CASES), help=argparse.SUPPRESS)
    if parser.parse_args().quick:
        parser.set_defaults(**QUICK)  # what was asked for in so many words still counts
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    tables = list(itertools.product(arguments.kinds, arguments.layouts, arguments.head_dims))
    if arguments.measure:
        print(measured_bytes(arguments.measure, Setting(*tables[0], arguments.keys[0]), arguments))
        return
    print(
        f"batch {arguments.batch}, {arguments.heads} heads, rate {arguments.rate},"
        f" {arguments.dtype}, {arguments.device}, {arguments.threads} threads,"
        f" {'a quarter of the keys padded' if arguments.padding else 'no padding'}"
    )
    found: list[dict[str, Any]] = []
    for table in tables:
        for rows in print_table(*table, arguments):
            found += rows
            write_record(arguments.output, arguments, found)  # a later size may fail


if __name__ == "__main__":
    main()
