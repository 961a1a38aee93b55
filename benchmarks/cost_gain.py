"""What HiddenKey's consistency loss gains for its time, when it is made cheaper.

    python benchmarks/cost_gain.py [--output runs/cost_gain] [--workers 2] [--seeds 5] [--steps 140]

The demonstration's encoder, headlines, learning rate and dropout rate; nothing is tuned here. The
loss in every step or every 2nd or 4th one, on all, half or a quarter of a batch; with gradient
through both branches; in the top half of the layers; with the second pass in bfloat16; beside LoRA
and HiddenKey without the loss. Each is a comparison with LoRA, step-matched and time-matched, in
one folder, whose report has the tables and the figure of gain over cost. LoRA is trained once.

A time-matched configuration trains fewer steps than LoRA, and fewer steps overfit less. So three of
them are compared with LoRA at the same number of steps too, in ``OUTPUT/control_STEPS``.

Interrupted, it goes on where it stood. Costs want a quiet machine.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hiddenkey.cli import compare, report
from hiddenkey.cli.commands import COMMANDS
from hiddenkey.cli.options import DemoOptions
from hiddenkey.cli.terminal import standard_console
from hiddenkey.lab.evidence.record import read_records
from hiddenkey.lab.plans.plan import Plan

CONTROLLED = (1, 2, 4)
"""Cycles of the loss, on whole batches, that are compared with LoRA at the same steps."""


def configurations() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield method and options of all that is compared with LoRA."""
    yield "hiddenkey-minus", {}
    for fraction in (1.0, 0.5, 0.25):
        for every in (1, 2, 4):
            yield "hiddenkey", {"consistency_every": every, "consistency_fraction": fraction}
    for name, value in (
        ("consistency_backward", "both"),
        ("layers", [3, 4, 5]),
        ("consistency_precision", "bfloat16"),
    ):
        yield "hiddenkey", {"consistency_every": 1, "consistency_fraction": 1.0, name: value}


def plans(arguments: argparse.Namespace) -> Iterator[Plan]:
    """Yield the comparison of each configuration with LoRA; all share a folder."""
    for method, options in configurations():
        yield _plan(arguments, method, options, arguments.steps, arguments.output)


def controls(arguments: argparse.Namespace) -> Iterator[Plan]:
    """Yield comparisons at the steps that time-matched configurations had."""
    for every in CONTROLLED:
        options = {"consistency_every": every, "consistency_fraction": 1.0}
        found = {
            record.result.steps
            for record in read_records(arguments.output)
            if record.budget == "time"
            and record.result is not None
            and options.items() <= record.options.items()
        }
        for steps in found - {arguments.steps}:
            folder = arguments.output / f"control_{steps}"
            plan = _plan(arguments, "hiddenkey", options, steps, folder)
            yield dataclasses.replace(plan, equal_time=False, report=True)


def _plan(
    arguments: argparse.Namespace,
    method: str,
    options: Mapping[str, Any],
    steps: int,
    output: Path,
) -> Plan:
    recipe: Plan = COMMANDS["compare"].read("compare", ["demo"])
    common = {name: value for name, value in recipe.common.items() if name != "epochs"}
    return dataclasses.replace(
        recipe,
        methods=("lora", method),
        seeds=tuple(range(arguments.seeds)),
        common={**common, "max_steps": steps, "evaluations": 1},
        per_method={method: dict(options)},
        equal_time=True,
        output=str(output),
        workers=arguments.workers,
        report=False,  # one report on all configurations, at the end
        accept_changes=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/cost_gain"))
    parser.add_argument("--workers", type=int, default=DemoOptions.workers, help="runs at a time")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, … of each configuration")
    parser.add_argument("--steps", type=int, default=140, help="LoRA's training steps")
    arguments = parser.parse_args()
    for plan in plans(arguments):
        compare.run(plan)
    report.write(standard_console(), arguments.output, "lora")
    for plan in controls(arguments):
        compare.run(plan)


if __name__ == "__main__":
    main()
