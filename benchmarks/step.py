"""Time and peak memory of a whole training step under each method, relative to plain LoRA's.

    python benchmarks/step.py [--models minilm mpnet smollm2 roberta-large gpt2-medium llama2-7b]
        [--variants lora hiddenkey r-drop] [--batch 32] [--tokens 64] [--no-padding] [--turns 12]
        [--threads 2] [--device cpu] [--dtype float32] [--compile] [--checkpointing]
        [--memory hiddenkey r-drop | --no-memory] [--output FILE]
    python benchmarks/step.py --quick

A step is forward pass, loss, backward pass and AdamW, with LoRA on key and value (rank 8; GPT-2 has
one projection for query, key and value, rank 4). ``minilm``, ``mpnet`` and ``smollm2`` are bundled
models; the others have random weights in their real dimensions, and ``llama2-7b`` needs a GPU.
Classifiers have one label for each sequence, language models predict every token. Sequences are
padded on the right unless ``--no-padding``; an attention mask is always given. ``--dtype`` is that
of the frozen weights and the activations: LoRA's weights are float32, as PEFT makes them. Rivals:
LoRA's dropout, the model's own dropout under PyTorch's fused attention, and R-Drop as its users
write it, the batch doubled and gradient through both halves. ``hiddenkey-side-by-side-one`` and
``-both`` compute HiddenKey's loss from such a doubled batch; the library runs one pass after the
other.

Time: the methods take turns step by step in one process, so that a slower moment of the machine
meets all of them; all share one set of frozen weights. ``ratio`` is the median over the turns; for
a method whose steps differ (``every``) it is the ratio of the mean times, over a whole number of
its cycles, to which ``--turns`` is rounded up. ``--compile`` puts torch.compile around the model;
the first four steps instead of two are then left out, and a column says how many of the measured
steps were spent on compiling after all.

Bounds: a table is preceded by the times of plain LoRA's forward pass F, backward pass B and forward
pass without gradient or labels. A second pass adds at least its share of the latter, or of F + B
where it is back-propagated: the exact loss in one branch cannot come below 1 + F_nograd/(F + B).
The optimizer is no part of the bound, which makes it a little too high.

Memory: growth is what a step needs at most beyond what is held before it (the weights and the
optimizer's state); peak is all that is held at that moment, relative to LoRA's. On a GPU both are
the allocator's. On a CPU each method runs in a fresh process, and after a tiny step that loads
libraries its resident set is measured; peak then holds Python and torch too. glibc is told there to
give every tensor pages of its own: by default its heap adds half as much again, by chance. Under
``every`` a step with the loss is measured.

Prints Markdown tables; FILE gets every measurement and the environment as JSON.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from harness import MIB, by_turns, compare, markdown, write_record
from hiddenkey.quiet import quiet
from step_methods import BASELINE, NAMES, Inputs, Variant
from step_models import SPECS, build
from step_training import Training, batch_of, chosen_variants, measure_memory, print_memory

QUICK = ("lora", "lora-dropout", "own-dropout", "dropkey", "hiddencut", "hiddenkey-minus",
         "hiddenkey", "hiddenkey-bfloat16", "hiddenkey-fraction-0.25", "hiddenkey-every-4",
         "r-drop")  # fmt: skip
QUICK_MEMORY = ("lora", "hiddenkey-minus", "hiddenkey", "r-drop")


def measure(model: str, arguments: argparse.Namespace) -> tuple[dict[str, Any], list[dict]]:
    """Plain LoRA's passes, and a row for each method."""
    spec = SPECS[model]
    base = build(spec, arguments.dtype or spec.dtype, arguments.device)
    methods = chosen_variants(spec, arguments.variants)
    trainings = {k: Training(base, spec, variant, arguments) for k, variant in methods.items()}
    inputs = batch_of(spec, base, arguments)
    cases = {name: lambda t=training: t(inputs) for name, training in trainings.items()}
    turns = whole_cycles(arguments.turns, methods.values())
    warm_up = 4 if arguments.compile else 2
    seconds = by_turns(cases, turns, warm_up=warm_up, device=arguments.device)
    settings = {
        "model": model,
        "batch": inputs["input_ids"].shape[0],
        "tokens": inputs["input_ids"].shape[1],
        "dtype": arguments.dtype or spec.dtype,
        "turns": turns,
    }
    passes = profile(trainings[BASELINE], inputs, turns, arguments)
    times = [passes[f"{name}_ms"] for name in ("forward", "backward", "no_grad")]
    recompiled = {name: sum(t.recompiled[warm_up:]) for name, t in trainings.items()}
    memory = measure_memory(model, trainings, inputs, arguments)
    rows = [
        settings
        | timing_row(name, variant, seconds, variant.bound(*times))
        | memory_row(name, memory)
        | ({"recompiled": recompiled[name]} if arguments.compile else {})
        for name, variant in methods.items()
    ]
    return settings | {"variant": "profile of plain LoRA"} | passes, rows


def profile(
    training: Training, inputs: Inputs, turns: int, arguments: argparse.Namespace
) -> dict[str, float]:
    """Median milliseconds of plain LoRA's passes, and the bound that follows from them."""
    losses: list[torch.Tensor] = []
    unlabelled = {name: tensor for name, tensor in inputs.items() if name != "labels"}

    def no_grad() -> None:
        with torch.no_grad():
            training.called(**unlabelled)

    passes = {
        "forward_ms": lambda: losses.append(training.called(**inputs).loss),
        "backward_ms": lambda: losses.pop().backward(),
        "no_grad_ms": no_grad,
    }
    seconds = by_turns(passes, turns, warm_up=2, device=arguments.device)
    training.optimizer.zero_grad()
    forward, backward, second = (compare(own, own).median_ms for own in seconds.values())
    return {
        "forward_ms": forward,
        "backward_ms": backward,
        "no_grad_ms": second,
        "one_branch_bound": 1 + second / (forward + backward),
    }


def whole_cycles(turns: int, methods: Iterable[Variant]) -> int:
    """Round the turns up, so that steps with and without the loss are in proportion."""
    cycle = math.lcm(*(variant.cycle for variant in methods))
    return math.ceil(turns / cycle) * cycle


def timing_row(
    name: str, variant: Variant, seconds: Mapping[str, list[float]], bound: float | None
) -> dict[str, Any]:
    timing = compare(seconds[name], seconds[BASELINE])
    return {
        "variant": name,
        "label": variant.label,
        "median_ms": timing.median_ms,
        "ratio": timing.ratio if variant.cycle == 1 else timing.mean_ratio,
        "median_ratio": timing.ratio,
        "quartiles": [timing.low, timing.high],
        "mean_ratio": timing.mean_ratio,
        "bound": bound,
        "seconds": seconds[name],
    }


def memory_row(name: str, memory: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    if name not in memory:
        return {}
    own, base = memory[name], memory[BASELINE]
    return {**own, "growth_ratio": own["growth_bytes"] / base["growth_bytes"],
            "peak_ratio": own["peak_bytes"] / base["peak_bytes"]}  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each method; the columns on memory only where it was measured."""
    columns = ["step", "median ms", "ratio", "quartiles", "mean ratio", "bound"]
    with_memory = any("growth_bytes" in row for row in rows)
    columns += ["recompiled"] if "recompiled" in rows[0] else []
    columns += ["growth MiB", "growth", "peak MiB", "peak"] if with_memory else []
    lines = []
    for row in rows:
        low, high = row["quartiles"]
        own_mean = row["ratio"] != row["median_ratio"]
        line = [row["label"], f"{row['median_ms']:.0f}"]
        line.append(f"{row['ratio']:.2f}{' (mean)' if own_mean else ''}")
        line += [f"{low:.2f} to {high:.2f}", f"{row['mean_ratio']:.2f}"]
        line.append(f"{row['bound']:.2f}" if row["bound"] else "")
        line += [row["recompiled"]] if "recompiled" in row else []
        if "growth_bytes" in row:
            line += [f"{row['growth_bytes'] / MIB:.0f}", f"{row['growth_ratio']:.2f}",
                     f"{row['peak_bytes'] / MIB:.0f}", f"{row['peak_ratio']:.3f}"]  # fmt: skip
        lines.append(line + [""] * (len(columns) - len(line)))
    return markdown(columns, lines)


def heading(passes: Mapping[str, Any], arguments: argparse.Namespace) -> str:
    """What was measured, and what plain LoRA's passes allow."""
    more = ["no padding" if arguments.no_padding else "padded", passes["dtype"], arguments.device]
    more += [f"threads {torch.get_num_threads()}", f"{passes['turns']} turns"]
    more += [name for name in ("compile", "checkpointing") if getattr(arguments, name)]
    return (
        f"### {passes['model']}, {passes['batch']} × {passes['tokens']} tokens"
        f" ({', '.join(more)})\n\n"
        f"Plain LoRA: F {passes['forward_ms']:.1f} ms, B {passes['backward_ms']:.1f} ms,"
        f" F_nograd {passes['no_grad_ms']:.1f} ms; bound for one branch:"
        f" 1 + F_nograd/(F + B) = {passes['one_branch_bound']:.2f}\n"
    )


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    some = {"nargs": "+", "choices": NAMES, "metavar": "NAME"}
    parser.add_argument("--models", nargs="+", choices=list(SPECS), default=["minilm"])
    parser.add_argument(
        "--variants", **some, default=list(NAMES), help=f"default: all of {', '.join(NAMES)}"
    )
    parser.add_argument("--batch", type=int, help="sequences; default: the model's own")
    parser.add_argument("--tokens", type=int, help="tokens per sequence; default: the model's own")
    parser.add_argument("--no-padding", action="store_true", help="no sequence is padded")
    parser.add_argument("--turns", type=int, help="measured steps of each method (12, quick 8)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: the model's own")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--memory", **some, help="of these only; default: all")
    parser.add_argument("--no-memory", action="store_true", help="measure time only")
    parser.add_argument("--quick", action="store_true", help="minilm under the main methods")
    parser.add_argument("--output", type=Path, help="JSON file for every measurement")
    parser.add_argument("--measure", choices=NAMES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.turns = arguments.turns or (8 if arguments.quick else 12)
    if arguments.quick:
        arguments.models, arguments.variants = ["minilm"], list(QUICK)
        arguments.memory = list(QUICK_MEMORY)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here; use --device cpu")
    if arguments.device == "cpu" and (large := [m for m in arguments.models if SPECS[m].gpu_only]):
        parser.error(f"{', '.join(large)} is measured on a GPU only; add --device cuda")
    return arguments


def allow_recompilations() -> None:
    """Let each method compile the code that all of them share for its own hooks."""
    torch._dynamo.config.recompile_limit = 1000  # by default 8, and then nothing is compiled
    torch._dynamo.config.accumulated_recompile_limit = 10000


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    quiet()
    if arguments.measure:
        print_memory(arguments.measure, SPECS[arguments.models[0]], arguments)
        return
    if arguments.compile:
        allow_recompilations()
    found: list[dict[str, Any]] = []
    for model in arguments.models:
        passes, rows = measure(model, arguments)
        print(f"{heading(passes, arguments)}\n{table(rows)}\n", flush=True)
        found += [passes, *rows]
        write_record(arguments.output, arguments, found)  # a later model may fail


if __name__ == "__main__":
    main()
