"""Whether cost_gain.py's equal time shows more than that fewer steps overfit less.

    python benchmarks/cost_gain_control.py [--output runs/cost_gain] [--workers 2] [--seeds 5]

At equal time a dearer setting trains fewer steps than LoRA. Here LoRA trains as few, with its own
full learning-rate schedule: by how much is each setting still better than LoRA with the same steps?
Run it after cost_gain.py, in whose folder it finds the other runs. Prints a Markdown table of means
over the seeds and of differences paired by seed, with Student's 95 % interval.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import demo_runs as demo
from cost_gain import options_of, settings, steps_in_equal_time, stored_costs
from harness import markdown
from hiddenkey.lab.evidence.comparisons import compare_paired
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.result import Result
from hiddenkey.quiet import quiet

COMPARED = ("every1-fraction1", "every2-fraction1", "every4-fraction1")
MEASURES = {
    "accuracy": (lambda result: result.metrics["accuracy"].last, True),
    "evaluation loss": (lambda result: result.eval_loss.last, False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/cost_gain"))
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time")
    parser.add_argument(
        "--seeds", type=int, default=5, help="seeds 0, 1, … of each number of steps"
    )
    parser.add_argument("--steps", type=int, default=140, help="LoRA's training steps")
    arguments = parser.parse_args()
    quiet()
    costs = stored_costs(arguments.output)
    named = {setting.name: setting for setting in settings()}
    table = []
    for name in COMPARED:
        steps = steps_in_equal_time(arguments.steps, costs[name])
        pairs = [
            [options_of(named[each], seed, steps, arguments.output / "runs")
             for seed in range(arguments.seeds)]
            for each in ("lora", name)
        ]  # fmt: skip
        lora, own = (results_of(runs, arguments.workers) for runs in pairs)
        table.append([f"HiddenKey, {named[name].label}", steps, *cells(lora, own)])
    columns = ["setting", "steps"]
    for measure in MEASURES:
        columns += [f"{measure}, LoRA", f"{measure}, setting", "difference"]
    print(markdown(columns, table))


def results_of(runs: Sequence[TrainOptions], workers: int) -> list[Result]:
    """Train what is not finished, and return the results in the order of the seeds."""
    return demo.run_all(runs, workers, lambda result: None)


def cells(lora: Sequence[Result], own: Sequence[Result]) -> list[str]:
    """Return means of both, and the paired difference, for each measure."""
    found = []
    for value, larger_is_better in MEASURES.values():
        ours, theirs = [value(r) for r in own], [value(r) for r in lora]
        difference = compare_paired(ours, theirs, larger_is_better=larger_is_better)
        found += [f"{statistics.mean(v):.3f} ± {statistics.stdev(v):.3f}" for v in (theirs, ours)]
        found.append(
            f"{difference.difference:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
        )
    return found


if __name__ == "__main__":
    main()
