"""Memory of what is kept between steps: a mean of the weights, and earlier predictions.

    python benchmarks/kept_memory.py [--model minilm] [--examples 10000] [--batch 32] [--tokens 64]
        [--threads 1] [--output FILE]
    python benchmarks/kept_memory.py --quick

Exact sizes, of tensors by their bytes and of Python's tables by what they allocate: the running
mean of LoRA's trainable weights (float32) between two steps, and with the last weights beside it
while the mean is evaluated; the store of the temporal loss after an epoch over ``--examples``
examples, of a classifier with two labels and of a language model with ``--tokens`` labelled tokens
in each. They are told relative to the adapter and to the peak of LoRA's step.

Peaks: a step of LoRA, of LoRA with a mean, and of the temporal loss, each in a process of its own,
as ``benchmarks/step.py --memory`` measures them.

Prints Markdown tables; FILE gets every number and the environment as JSON.
"""

from __future__ import annotations

import argparse
import tracemalloc
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness import MIB, markdown, write_record
from hiddenkey.framework.consistency import Consistency
from hiddenkey.framework.inference import Inference
from hiddenkey.quiet import quiet
from hiddenkey.step.averaging import WeightAverage
from hiddenkey.step.history import History, rows_by_example
from hiddenkey.step.identity import Identities
from step_methods import BASELINE
from step_models import SPECS, add_lora, build
from step_training import memory_on_cpu

STEPS = {
    BASELINE: "LoRA, no dropout",
    "lora-average": "LoRA, its weights averaged",
    "temporal": "temporal consistency, no noise",
}
LABELS = 2
TOP = Consistency.top


def adapter_and_means(lora: nn.Module) -> dict[str, int]:
    """Bytes of the trained weights in float32, and of what averaging keeps beside them."""
    trained = sum(p.numel() for p in lora.parameters() if p.requires_grad)
    average = WeightAverage(lora, Inference("average", part=1), steps=1)
    average.update()
    found = {"adapter": 4 * trained, "mean": average.bytes}
    with average.applied():
        found["mean and last weights, in an evaluation"] = average.bytes
    return found


def store(examples: int, units: int, width: int, classes: int) -> dict[str, int]:
    """Bytes of a store after one epoch.

    Args:
        examples: of the data set.
        units: rows of an example.
        width: numbers of a row.
        classes: class numbers of a row.
    """
    draws = torch.Generator().manual_seed(0)
    keys = torch.randint(-(2**63), 2**63 - 1, (examples,), generator=draws).tolist()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    history = History()
    for first in range(0, examples, 32):
        batch = keys[first : first + 32]
        counts = [units] * len(batch)
        starts = history.rows_of(Identities(batch, batch, are_numbered=False), counts)
        rows = rows_by_example(starts, counts, torch.device("cpu"))
        like = torch.zeros(len(rows), width)
        history.read(rows, like, classes)
        kept = torch.zeros(len(rows), classes, dtype=torch.int64) if classes else None
        history.write(rows, like, kept)
    tables = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return {"rows": history.bytes, "capacity": history.capacity_bytes, "tables": tables}


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(SPECS), default="minilm")
    parser.add_argument("--examples", type=int, help="of the data set (10000, quick 2000)")
    parser.add_argument("--batch", type=int, help="sequences (32, quick 8)")
    parser.add_argument("--tokens", type=int, help="per sequence (64, quick 32)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="fewer examples and smaller batches")
    parser.add_argument("--output", type=Path, help="JSON file for every number")
    arguments = parser.parse_args()
    small = arguments.quick
    arguments.examples = arguments.examples or (2000 if small else 10_000)
    arguments.batch = arguments.batch or (8 if small else 32)
    arguments.tokens = arguments.tokens or (32 if small else 64)
    arguments.dtype, arguments.no_padding, arguments.checkpointing = None, False, False
    return arguments


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    quiet()
    steps = {name: memory_on_cpu(name, arguments.model, arguments) for name in STEPS}
    peak = steps[BASELINE]["peak_bytes"]
    spec = SPECS[arguments.model]
    kept = adapter_and_means(add_lora(build(spec, spec.dtype, "cpu"), spec))
    adapter, examples, tokens = kept["adapter"], arguments.examples, arguments.tokens
    stores = {
        f"store, {examples:,} examples of {LABELS} labels": store(examples, 1, LABELS, 0),
        f"store, {examples:,} texts of {tokens} labelled tokens, {TOP} classes each": store(
            examples, tokens, TOP + 1, TOP
        ),
    }
    kept |= {name: sum((own["capacity"], own["tables"])) for name, own in stores.items()}
    rows = [
        (name, f"{size / MIB:.2f}", f"{size / adapter:.2f}", f"{size / peak:.4f}")
        for name, size in kept.items()
    ]
    print(f"{arguments.model}, {arguments.batch} sequences of {tokens} tokens\n")
    print(markdown(("kept", "MiB", "of the adapter", "of the peak of LoRA's step"), rows))
    print()
    rows = [
        (
            label,
            f"{steps[name]['growth_bytes'] / MIB:.1f}",
            f"{steps[name]['peak_bytes'] / MIB:.1f}",
            f"{steps[name]['peak_bytes'] / peak:.3f}",
        )
        for name, label in STEPS.items()
    ]
    print(markdown(("step", "growth MiB", "peak MiB", "of LoRA's peak"), rows))
    found: list[dict[str, Any]] = [{"kept": name, "bytes": size} for name, size in kept.items()]
    found += [{"store": name, **own} for name, own in stores.items()]
    found += [{"step": name, **own} for name, own in steps.items()]
    write_record(arguments.output, arguments, found)


if __name__ == "__main__":
    main()
