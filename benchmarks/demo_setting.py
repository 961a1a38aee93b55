"""How the demonstration's learning rates and dropout rates were chosen.

    python benchmarks/demo_setting.py [--output runs/demo_setting] [--workers 2]

Six settings for each method, five seeds that the demonstration does not use, the same 200 training
headlines, judged on 500 other headlines of the training pool; the evaluation headlines are not
read. The rule, fixed before the runs: highest mean accuracy at the last epoch, then the lowest
evaluation loss there. Interrupted, it goes on where it stood.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from pathlib import Path

import demo_runs as demo
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.result import Result
from hiddenkey.lab.tasks import TASKS, Example, Source
from hiddenkey.lab.tasks.sampling import draw

SEEDS = (100, 101, 102, 103, 104)
HELD_OUT = 500
GRID = {
    "lora": [{"learning_rate": lr} for lr in (5e-4, 1e-3, 2e-3, 3e-3, 4e-3, 6e-3)],
    "hiddenkey": [
        {"learning_rate": lr, "rate": rate} for lr in (1e-3, 2e-3, 4e-3) for rate in (0.1, 0.2)
    ],
}


def write_data(folder: Path) -> tuple[Path, Path]:
    """Write the demonstration's training headlines and others of the pool as two CSV files."""
    splits = TASKS["headlines"].load(Source())
    train = draw(splits.train, demo.BUDGET["train_size"], 0, "classification")
    others = [example for example in splits.train if example not in set(train)]
    held_out = draw(others, HELD_OUT, 1, "classification")
    folder.mkdir(parents=True, exist_ok=True)
    return (
        _write_csv(folder / "train.csv", train, splits.label_names),
        _write_csv(folder / "held_out.csv", held_out, splits.label_names),
    )


def plan(folder: Path) -> list[TrainOptions]:
    """All runs, seed by seed."""
    train, held_out = write_data(folder)
    shared = {k: v for k, v in demo.BUDGET.items() if k not in ("task", "train_size", "eval_size")}
    return [
        TrainOptions(
            **shared,
            **setting,
            task="file",
            train_file=str(train),
            eval_file=str(held_out),
            text_columns=("text",),
            method=method,
            seed=seed,
            output=str(folder / f"{method}-{index}-seed{seed}"),
            resume=True,
        )
        for seed in SEEDS
        for method, settings in GRID.items()
        for index, setting in enumerate(settings)
    ]


def table(runs: list[TrainOptions], results: list[Result]) -> str:
    """Mean over seeds of each setting, the best of each method first."""
    found = defaultdict(list)
    for run, result in zip(runs, results, strict=True):
        found[run.method, run.learning_rate, run.rate].append(result)
    rows = []
    for (method, learning_rate, rate), own in found.items():
        accuracy = statistics.mean(r.metrics["accuracy"].last for r in own)
        loss = statistics.mean(r.eval_loss.last for r in own)
        lowest = statistics.mean(r.eval_loss.best for r in own)
        rows.append((method != "lora", -accuracy, loss, method, learning_rate, rate, lowest))
    lines = [
        "| method | learning rate | rate | accuracy, last | loss, last | loss, best |",
        "|---|---|---|---|---|---|",
    ]
    for _, accuracy, loss, method, learning_rate, rate, lowest in sorted(rows, key=lambda r: r[:3]):
        lines.append(
            f"| {method} | {learning_rate:g} | {rate or '-'} | {-accuracy:.3f} | {loss:.3f}"
            f" | {lowest:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/demo_setting"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    runs = plan(arguments.output)
    results = demo.run_all(
        runs, arguments.workers, lambda result: print(f"{result.method} seed {result.seed} done")
    )
    print(table(runs, results))


def _write_csv(path: Path, examples: tuple[Example, ...], names: tuple[str, ...]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([example.texts[0], names[int(example.label)]] for example in examples)
    return path


if __name__ == "__main__":
    main()
