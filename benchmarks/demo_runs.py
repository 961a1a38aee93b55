"""Runs at the demonstration's settings, which are those of the recipe ``demo``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any, Final

import yaml

from hiddenkey.lab.plans.recipes import find
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.result import Result

_CHOSEN_FOR: Final = {"lora": ("learning_rate",), "hiddenkey": ("learning_rate", "rate")}
_COMMON: Final[dict[str, Any]] = yaml.safe_load(find("demo").text)["common"]

BUDGET: Final[dict[str, Any]] = {
    "model": "minilm",
    "task": "headlines",
    **{name: value for name, value in _COMMON.items() if name not in _CHOSEN_FOR["hiddenkey"]},
}
"""What both methods share."""

CHOSEN: Final[dict[str, dict[str, Any]]] = {
    method: {name: _COMMON[name] for name in names} for method, names in _CHOSEN_FOR.items()
}
"""What was chosen for each method, with equal effort."""


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
