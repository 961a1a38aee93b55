"""The demonstration: plain LoRA and HiddenKey on the bundled encoder and corpus, over seeds.

Both methods get the same examples, the same steps and, for each seed, the same initial weights and
batches. What is chosen by hand, the learning rates and dropout rates in :data:`CHOSEN`, was chosen
with six settings and five seeds for each method on headlines held out of the training pool, by
``benchmarks/demo_setting.py``; the evaluation headlines were not looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.result import Result

BUDGET: Final[dict[str, Any]] = {
    "model": "minilm",
    "task": "headlines",
    "train_size": 200,
    "eval_size": 500,
    "max_length": 32,
    "epochs": 20.0,
    "batch_size": 32,
    "evaluations": 5,
}
"""What both methods share."""

CHOSEN: Final[dict[str, dict[str, Any]]] = {
    "lora": {"learning_rate": 2e-3},
    "hiddenkey": {"learning_rate": 2e-3, "rate": 0.1},
}
"""What was chosen for each method, with equal effort."""


@dataclass(frozen=True)
class DemoOptions:
    """The demonstration's own settings."""

    output: str = "runs/demo"
    """Folder of the runs, the table and the picture; an interrupted demonstration goes on there."""
    seeds: int = 5
    """Training seeds for each method."""
    workers: int = 2
    """Runs at the same time, each with its share of the processor's cores."""
    epochs: float = BUDGET["epochs"]
    """Passes over the 200 training headlines."""


def validate(options: DemoOptions) -> list[str]:
    """Return every broken rule of the settings."""
    return [
        f"{name} must be {rule}, got {value!r}; give a larger number"
        for name, rule, value, holds in (
            ("seeds", "at least 2, to show a deviation", options.seeds, options.seeds >= 2),
            ("workers", "at least 1", options.workers, options.workers >= 1),
            ("epochs", "above 0", options.epochs, options.epochs > 0),
        )
        if not holds
    ]


def plan(options: DemoOptions) -> list[TrainOptions]:
    """Return all runs, seed by seed, so that the methods run side by side.

    Raises:
        ConfigError: with every broken rule.
    """
    if faults := validate(options):
        raise ConfigError(faults)
    return [
        TrainOptions(
            **{**BUDGET, **CHOSEN[method], "epochs": options.epochs},
            method=method,
            seed=seed,
            output=str(Path(options.output) / f"{method}-seed{seed}"),
            resume=True,
        )
        for seed in range(options.seeds)
        for method in CHOSEN
    ]


def run_all(
    runs: Sequence[TrainOptions], workers: int, finished: Callable[[Result], None]
) -> list[Result]:
    """Train all runs in worker processes and return their results in the order of ``runs``.

    Args:
        runs: the runs; finished ones are only read.
        workers: processes at a time.
        finished: is told each result as it comes.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    results: dict[int, Result] = {}
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_prepare_worker, initargs=(threads,)
    )
    with pool:
        pending = {pool.submit(_train, run): index for index, run in enumerate(runs)}
        try:
            for future in as_completed(pending):
                results[pending[future]] = result = Result.from_dict(future.result())
                finished(result)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [results[index] for index in range(len(runs))]


def _prepare_worker(threads: int) -> None:
    import torch

    from hiddenkey.quiet import quiet

    torch.set_num_threads(threads)
    quiet()


def _train(options: TrainOptions) -> dict[str, Any]:
    from hiddenkey.lab.run.training import train

    return train(options).to_dict()
