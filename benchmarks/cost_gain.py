"""What HiddenKey's consistency loss gains for its time, when it is made cheaper.

    python benchmarks/cost_gain.py [--output runs/cost_gain] [--workers 2] [--seeds 5] [--steps 140]
        [--only costs|runs|report] [--picture docs/cost_gain.svg]

The demonstration's encoder, headlines, learning rate and dropout rate; nothing is tuned here. The
loss in every step or every 2nd or 4th one, on all, half or a quarter of a batch; with gradient
through both branches; in the top half of the layers; with the second pass in bfloat16; beside LoRA
and HiddenKey without the loss.
Two comparisons. *Equal steps*: all settings train the same steps. *Equal time*: each setting trains
for the time that LoRA's steps take, with its own full learning-rate schedule.

The costs come first: all settings take turns step by step in one process, on the training batches
of the task. They are kept in ``OUTPUT/costs.json``, since the steps of the second comparison follow
from them, and each is measured again only when it is not in that file. ``--only costs`` measures
them alone, which wants a quiet machine. Interrupted, the runs go on where they stood; ``--only
report`` reports the seeds whose runs are all finished.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import demo_runs as demo
import hiddenkey
from cost_gain_report import (
    COMPARISONS,
    EQUAL_STEPS,
    LORA,
    Key,
    Setting,
    draw,
    note,
    table,
    tabulate,
)
from harness import by_turns, compare, environment, write_record
from hiddenkey.lab.run.adapters import add_adapter
from hiddenkey.lab.run.encoding import collator, encode
from hiddenkey.lab.run.models import load_model
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import prepare
from hiddenkey.lab.run.result import Result
from hiddenkey.quiet import quiet

EVERY = (1, 2, 4)
FRACTIONS = (1.0, 0.5, 0.25)
TOP_HALF = (3, 4, 5)
# The 200 headlines are 7 batches: in 28 steps each of them meets each phase of `every` 4 once.
TURNS, WARM_UP = 28, 4


def settings() -> tuple[Setting, ...]:
    """All settings that are compared; LoRA, which the others are related to, comes first."""
    grid = [
        Setting(
            f"every{every}-fraction{fraction:g}", f"every {every}, fraction {fraction:g}",
            "hiddenkey", every, fraction,
        )
        for fraction in FRACTIONS
        for every in EVERY
    ]  # fmt: skip
    both, top = {"consistency_backward": "both"}, {"layers": TOP_HALF}
    lower = {"consistency_precision": "bfloat16"}
    return (
        Setting(LORA, "LoRA", "lora"),
        Setting("minus", "HiddenKey⁻, no consistency loss", "hiddenkey-minus"),
        *grid,
        Setting("both", "both branches", "hiddenkey", 1, 1.0, both),
        Setting("top-half", "top half of the layers", "hiddenkey", 1, 1.0, top),
        Setting("bfloat16", "second pass in bfloat16", "hiddenkey", 1, 1.0, lower),
    )


def options_of(setting: Setting, seed: int, steps: int, folder: Path) -> TrainOptions:
    """Return the run of one setting and seed; its folder is named by all that it varies."""
    budget = {name: value for name, value in demo.BUDGET.items() if name != "epochs"}
    budget["evaluations"] = 1  # of the last step, which alone is reported
    chosen = demo.CHOSEN["lora" if setting.method == "lora" else "hiddenkey"]
    loss: dict[str, Any] = {}
    if setting.every is not None:
        loss = {"consistency_every": setting.every, "consistency_fraction": setting.fraction}
    return TrainOptions(
        **{**budget, **chosen, **loss, **setting.changes},
        method=setting.method,
        seed=seed,
        max_steps=steps,
        output=str(folder / f"{setting.name}-{steps}steps-seed{seed}"),
        resume=True,
    )


def steps_in_equal_time(steps: int, cost: float) -> int:
    """Return how many steps a setting gets for the time of ``steps`` of LoRA's, never more."""
    return steps if cost <= 1 else max(1, round(steps / cost))


def plan(
    folder: Path, costs: Mapping[str, float], seeds: int, steps: int
) -> dict[Key, TrainOptions]:
    """Return all runs, seed by seed, by comparison, setting and seed.

    A setting whose steps are the same in both comparisons has one run for both.
    """
    return {
        (comparison, setting.name, seed): options_of(
            setting,
            seed,
            steps if comparison == EQUAL_STEPS else steps_in_equal_time(steps, costs[setting.name]),
            folder / "runs",
        )
        for seed in range(seeds)
        for comparison in COMPARISONS
        for setting in settings()
    }


@dataclass(frozen=True)
class Cost:
    """Seconds of a setting's training step.

    Attributes:
        relative: to LoRA's: median over the turns, of each phase of the cycle, then their mean.
        mean_relative: ratio of the mean times, which one slow moment can move.
        low: lower quartile of the ratios of single turns.
        high: upper quartile; far from ``low`` by design where steps differ.
        median_ms: median step in milliseconds.
    """

    relative: float
    mean_relative: float
    low: float
    high: float
    median_ms: float


def cost_of(own: Sequence[float], base: Sequence[float], every: int) -> Cost:
    """Sum up the steps of a setting whose consistency loss is due in every ``every``-th one."""
    ratios = [a / b for a, b in zip(own, base, strict=True)]
    cycle = [statistics.median(ratios[phase::every]) for phase in range(every)]
    timing = compare(own, base)
    return Cost(
        statistics.mean(cycle), timing.mean_ratio, timing.low, timing.high, timing.median_ms
    )


def measure_costs(measured: Sequence[Setting], turns: int = TURNS) -> dict[str, Cost]:
    """Let settings, LoRA among them, take turns, step by step, on the task's training batches."""
    cases = {setting.name: training_step(setting) for setting in measured}
    seconds = by_turns(cases, turns, warm_up=WARM_UP)
    return {
        setting.name: cost_of(seconds[setting.name], seconds[LORA], setting.every or 1)
        for setting in measured
    }


def training_step(setting: Setting) -> Callable[[], None]:
    """Return one step of a setting's training, as Trainer does it; calls go through the batches."""
    options = options_of(setting, seed=0, steps=1, folder=Path())
    prepared = prepare(options)
    kind = prepared.task.kind
    torch.manual_seed(0)
    names = prepared.splits.label_names
    loaded, tokenizer = load_model(options.model, kind, names, options.precision)
    model = add_adapter(loaded, options, kind).train()
    hiddenkey.attach(model, prepared.config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.learning_rate)
    examples = encode(prepared.splits.train, tokenizer, options.max_length, kind)
    loader = DataLoader(examples, options.batch_size, collate_fn=collator(tokenizer, kind))
    batches = itertools.cycle(list(loader))

    def step() -> None:
        model(**next(batches)).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def stored_costs(folder: Path) -> dict[str, float]:
    """Return the relative cost of each setting, measured now if it is not yet in the folder."""
    path = folder / "costs.json"
    known = json.loads(path.read_text(encoding="utf-8"))["costs"] if path.exists() else {}
    if missing := [s for s in settings() if s.name not in known]:
        lora = [s for s in settings() if s.name == LORA]
        found = measure_costs(lora + [s for s in missing if s.name != LORA])
        costs = {name: dataclasses.asdict(cost) for name, cost in found.items()}
        record = {"environment": environment(), "turns": TURNS, "costs": {**costs, **known}}
        folder.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f".{path.name}")
        half.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        half.replace(path)
    costs = json.loads(path.read_text(encoding="utf-8"))["costs"]
    return {setting.name: costs[setting.name]["relative"] for setting in settings()}


def train_all(runs: Mapping[Key, TrainOptions], workers: int) -> None:
    """Train what is not finished; a run that serves both comparisons is trained once."""
    unique = list({options.output: options for options in runs.values()}.values())
    done = itertools.count(1)

    def finished(result: Result) -> None:
        print(f"{next(done)} of {len(unique)}: {result.method}, seed {result.seed}, {result.steps}"
              f" steps, {result.seconds_per_step * 1000:.0f} ms per step", flush=True)  # fmt: skip

    demo.run_all(unique, workers, finished)


def finished_results(runs: Mapping[Key, TrainOptions]) -> dict[Key, Result]:
    """Read the results of the seeds whose runs are all finished."""
    found = {
        key: Result.load(options.folder)
        for key, options in runs.items()
        if (options.folder / "result.json").exists()
    }
    missing = {seed for _, _, seed in runs.keys() - found.keys()}
    return {key: result for key, result in found.items() if key[2] not in missing}


def report(
    arguments: argparse.Namespace, costs: Mapping[str, float], results: Mapping[Key, Result]
) -> None:
    """Print and write the tables, the record and the picture."""
    rows = tabulate(settings(), costs, results)
    parts = [f"## {name}\n\n{table(rows, name)}\n" for name in COMPARISONS]
    text = "\n".join([*parts, note(rows)]) + "\n"
    print(text)
    (arguments.output / "table.md").write_text(text, encoding="utf-8")
    record = [dataclasses.asdict(row) for row in rows]
    write_record(arguments.output / "record.json", arguments, record)
    draw(rows, arguments.picture or arguments.output / "cost_gain.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/cost_gain"))
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, … of each setting")
    parser.add_argument("--steps", type=int, default=140, help="LoRA's training steps")
    parser.add_argument("--only", choices=("costs", "runs", "report"), help="one part alone")
    parser.add_argument("--picture", type=Path, help=".svg file; a .png is written beside it")
    arguments = parser.parse_args()
    quiet()
    # the costs are measured with as many threads as a worker trains with
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // arguments.workers))
    costs = stored_costs(arguments.output)
    for name, cost in costs.items():
        print(f"{name}: {cost:.2f}, {steps_in_equal_time(arguments.steps, cost)} steps")
    runs = plan(arguments.output, costs, arguments.seeds, arguments.steps)
    if arguments.only in (None, "runs"):
        train_all(runs, arguments.workers)
    if arguments.only in (None, "report"):
        results = finished_results(runs)
        if len({seed for _, _, seed in results}) < 2:
            raise SystemExit("fewer than 2 seeds have all their runs; run without --only first")
        report(arguments, costs, results)


if __name__ == "__main__":
    main()
