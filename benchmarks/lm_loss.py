"""Time and transient memory of the language-model loss, relative to the usual code.

    python benchmarks/lm_loss.py [--vocabulary 49152 128256] [--tokens 512 2048] [--hidden 576]
        [--dtype float32] [--device cpu] [--branches one] [--trainable-head] [--repeats 5]
        [--threads 1] [--chunk-rows ROWS] [--quick] [--output FILE]

Forward and backward from the hidden states, with a frozen head unless ``--trainable-head``. Two
groups of rows: cross-entropy + bidirectional KL relative to the usual R-Drop code (two full sets of
logits, their softmaxes, ``kl_div`` both ways), and cross-entropy alone relative to the usual
``cross_entropy(linear(h))``. The nearest functions of TRL and Liger take part where they are
installed and run; what they compute is said in their names.

Time: the methods take turns in one process, so that a slower moment of the machine meets all of
them; the ratio is the median over the turns.

Transient memory: what one forward and backward pass needs at most beyond its inputs. On a GPU that
is the allocator's own peak. On a CPU each method runs once in a fresh process and its resident set
is measured: Linux resets the peak (VmHWM) on request, so the growth counts every page that was
touched, also by the BLAS library, and nothing that an earlier pass left behind can hide it; glibc
is told there to give each tensor pages of its own.

Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import MIB, by_turns, compare, in_own_process, transient_bytes, write_record
from hiddenkey.chunked_loss import Factors, LinearHead, chunked_loss

USUAL, OURS = "usual R-Drop code", "hiddenkey"
PLAIN, PLAIN_OURS = "cross_entropy(linear(h))", "hiddenkey, cross-entropy alone"


class Inputs(NamedTuple):
    states: Tensor
    other: Tensor
    weight: Tensor
    labels: Tensor
    chunk_rows: int | None

    @property
    def leaves(self) -> list[Tensor]:
        return [t for t in (self.states, self.other, self.weight) if t.requires_grad]


def usual(x: Inputs) -> Tensor:
    """R-Drop as its authors and its users write it; ``other`` is a constant in one-branch form."""
    logits = F.linear(x.states, x.weight)
    both = x.other.requires_grad
    with torch.set_grad_enabled(both):
        other = F.linear(x.other, x.weight)
    task = F.cross_entropy(logits.float(), x.labels)
    if both:
        task = 0.5 * (task + F.cross_entropy(other.float(), x.labels))
    log_p, log_q = F.log_softmax(logits.float(), -1), F.log_softmax(other.float(), -1)
    p, q = F.softmax(logits.float(), -1), F.softmax(other.float(), -1)
    forward = F.kl_div(log_p, q, reduction="none").sum()
    backward = F.kl_div(log_q, p, reduction="none").sum()
    return task + 0.5 * (forward + backward) / len(x.labels)


def ours(x: Inputs) -> Tensor:
    both = x.other.requires_grad
    factors = Factors(1.0, 0.5, 0.5) if both else Factors()
    loss = chunked_loss(
        x.states, x.labels, LinearHead(x.weight), x.other, factors, chunk_rows=x.chunk_rows
    ).loss
    return loss / len(x.labels)


def plain(x: Inputs) -> Tensor:
    return F.cross_entropy(F.linear(x.states, x.weight).float(), x.labels)


def plain_ours(x: Inputs) -> Tensor:
    loss = chunked_loss(x.states, x.labels, LinearHead(x.weight), chunk_rows=x.chunk_rows).loss
    return loss / len(x.labels)


def torch_chunked(x: Inputs) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(x.states, x.weight, x.labels, options=options)


def trl_cross_entropy(x: Inputs) -> Tensor:
    kernel = importlib.import_module("trl.kernels.chunked_logprob").ChunkedLogProbFunction
    outputs = kernel.apply(x.states, x.weight, None, x.labels, 1.0, 256, None, 1.0, ("log_probs",))
    return -outputs[0].mean()


def trl(x: Inputs) -> Tensor:
    kernel = importlib.import_module("trl.kernels.chunked_divergence").ChunkedDivergenceFunction
    arguments = (x.states, x.weight, None, x.other, x.weight, None)
    both_ways = kernel.apply(*arguments, 0.0)[0].mean() + kernel.apply(*arguments, 1.0)[0].mean()
    return trl_cross_entropy(x) + 0.5 * both_ways


def liger(x: Inputs) -> Tensor:
    module = importlib.import_module("liger_kernel.chunked_loss")
    loss = module.LigerFusedLinearJSDLoss(
        weight_hard_loss=1.0, weight_soft_loss=1.0, compiled=x.states.is_cuda
    )
    return loss(x.states, x.weight, x.other, x.weight, x.labels)


WITH_KL: dict[str, Callable[[Inputs], Tensor]] = {
    USUAL: usual,
    OURS: ours,
    "TRL, the same loss from three of its functions": trl,
    "Liger, cross-entropy + JSD": liger,
}
ALONE: dict[str, Callable[[Inputs], Tensor]] = {
    PLAIN: plain,
    PLAIN_OURS: plain_ours,
    "torch linear_cross_entropy, chunked": torch_chunked,
    "TRL, chunked log-probabilities": trl_cross_entropy,
}
METHODS = WITH_KL | ALONE
BASE_OF = dict.fromkeys(WITH_KL, USUAL) | dict.fromkeys(ALONE, PLAIN)
NEEDS = {trl: "trl.kernels.chunked_divergence", trl_cross_entropy: "trl.kernels.chunked_logprob",
         liger: "liger_kernel.chunked_loss"}  # fmt: skip
ONE_BRANCH_ONLY = (trl, liger)
QUICK = {
    "vocabulary": [49152],
    "tokens": [512],
    "methods": [name for name, method in METHODS.items() if method not in NEEDS],
    "repeats": 3,
}


def make_inputs(vocabulary: int, tokens: int, arguments: argparse.Namespace) -> Inputs:
    """Hidden states of two noisy passes and a head whose logits have a spread of about 2."""
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    torch.manual_seed(0)
    weight = torch.randn(vocabulary, arguments.hidden, device=device, dtype=dtype)
    weight.mul_(2 / arguments.hidden**0.5)
    states = torch.randn(tokens, arguments.hidden, device=device, dtype=dtype)
    other = states + 0.1 * torch.randn_like(states)
    labels = torch.randint(0, vocabulary, (tokens,), device=device)
    states.requires_grad_()
    other.requires_grad_(arguments.branches == "both")
    weight.requires_grad_(arguments.trainable_head)
    return Inputs(states, other, weight, labels, arguments.chunk_rows)


def run(method: Callable[[Inputs], Tensor], inputs: Inputs) -> float:
    """One forward and backward pass; returns the loss."""
    loss = method(inputs)
    loss.backward()
    for leaf in inputs.leaves:
        leaf.grad = None
    return loss.item()


def measured_bytes(name: str, vocabulary: int, tokens: int, arguments: argparse.Namespace) -> int:
    """Transient bytes; on a CPU in this process, which should have done nothing else."""
    method = METHODS[name]
    run(method, make_inputs(512, 16, arguments))  # loads libraries
    inputs = make_inputs(vocabulary, tokens, arguments)
    return transient_bytes(lambda: run(method, inputs), arguments.device)


def transient_mib(name: str, vocabulary: int, tokens: int, arguments: argparse.Namespace) -> float:
    if arguments.device != "cpu":
        return measured_bytes(name, vocabulary, tokens, arguments) / MIB
    one_case = ["--measure", name, "--vocabulary", vocabulary, "--tokens", tokens]
    return in_own_process(__file__, [*sys.argv[1:], *one_case]) / MIB


def runnable(arguments: argparse.Namespace) -> list[str]:
    """The chosen methods that are installed and run here; the others are named on stderr."""
    names = []
    for name, method in METHODS.items():
        if arguments.methods and name not in arguments.methods:
            continue
        try:
            if method in NEEDS:
                importlib.import_module(NEEDS[method])
            if method in ONE_BRANCH_ONLY and arguments.branches == "both":
                raise NotImplementedError("back-propagates through one branch only")
            run(method, make_inputs(512, 16, arguments))
            names.append(name)
        except Exception as error:  # whatever another project's code does not support here
            if name == BASE_OF[name]:
                raise
            print(f"left out: {name}: {type(error).__name__}: {error}", file=sys.stderr)
    return names


def rows_of_table(
    names: list[str], vocabulary: int, tokens: int, arguments: argparse.Namespace
) -> list[dict[str, object]]:
    memory = {name: transient_mib(name, vocabulary, tokens, arguments) for name in names}
    inputs = make_inputs(vocabulary, tokens, arguments)
    passes = {name: functools.partial(run, METHODS[name], inputs) for name in names}
    seconds = by_turns(passes, arguments.repeats, device=arguments.device)
    rows = []
    for name in names:
        base = BASE_OF[name]
        timing = compare(seconds[name], seconds[base])
        rows.append(
            {
                "method": name,
                "vocabulary": vocabulary,
                "tokens": tokens,
                "median_ms": timing.median_ms,
                "time_ratio": timing.ratio,
                "transient_mib": memory[name],
                "memory_ratio": memory[name] / memory[base],
                "loss": run(METHODS[name], inputs),
            }
        )
    return rows


HEADING = (
    "| vocabulary | tokens | method | median ms | time | transient MiB | memory | loss |\n"
    "|---|---|---|---|---|---|---|---|"
)
ROW = (
    "| {vocabulary} | {tokens} | {method} | {median_ms:.0f} | {time_ratio:.2f}× |"
    " {transient_mib:.0f} | {memory_ratio:.1%} | {loss:.5f} |"
)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[49152, 128256])
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048], help="with a label")
    parser.add_argument("--hidden", type=int, default=576, help="width of the hidden states")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--branches", default="one", choices=["one", "both"])
    parser.add_argument("--trainable-head", action="store_true")
    parser.add_argument("--repeats", type=int, default=5, help="measured turns of each method")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--chunk-rows", type=int, help="override the library's choice")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), help="default: all")
    parser.add_argument("--quick", action="store_true", help="one size, without TRL and Liger")
    parser.add_argument("--output", type=Path, help="JSON file for every number")
    parser.add_argument("--measure", choices=list(METHODS), help=argparse.SUPPRESS)
    if parser.parse_args().quick:
        parser.set_defaults(**QUICK)  # what was asked for in so many words still counts
    arguments = parser.parse_args()
    for name in arguments.methods or ():
        if BASE_OF[name] not in arguments.methods:
            parser.error(f"--methods: {name!r} is judged relative to {BASE_OF[name]!r}; add it")
    return arguments


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        vocabulary, tokens = arguments.vocabulary[0], arguments.tokens[0]
        print(measured_bytes(arguments.measure, vocabulary, tokens, arguments))
        return
    names = runnable(arguments)
    found = []
    print(
        f"{arguments.dtype}, {arguments.device}, hidden {arguments.hidden}, gradient through"
        f" {arguments.branches}, {'trainable' if arguments.trainable_head else 'frozen'} head,"
        f" threads {arguments.threads}\n\n{HEADING}"
    )
    for vocabulary, tokens in itertools.product(arguments.vocabulary, arguments.tokens):
        for row in rows_of_table(names, vocabulary, tokens, arguments):
            print(ROW.format(**row), flush=True)
            found.append(row)
    write_record(arguments.output, arguments, found)


if __name__ == "__main__":
    main()
