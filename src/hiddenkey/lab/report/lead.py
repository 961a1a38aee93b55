"""The one line that a reader sees first: effect with its interval, model, data and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hiddenkey.lab.evidence.axes import Task
from hiddenkey.lab.evidence.cells import Cell
from hiddenkey.lab.evidence.configurations import ConfiguredRun
from hiddenkey.lab.evidence.costs import Cost
from hiddenkey.lab.present.words import count, interval, listing, signed
from hiddenkey.lab.report.choice import comparison_of, gain_of, recommended


def lead(
    task: Task,
    cells: Sequence[Cell],
    costs: Sequence[Cost],
    runs: Sequence[ConfiguredRun],
    baseline: str,
) -> str:
    """Return effect, model, data and seeds in one line; empty where nothing is compared.

    The effect is that of the recommended configuration, or else the most favourable one.

    Args:
        task: the task.
        cells: its cells.
        costs: what its configurations cost.
        runs: its runs.
        baseline: the method that the others are compared with.
    """
    compared = [cell for cell in cells if cell.is_main("last") and cell.comparison is not None]
    if not compared:
        return ""
    better = any(comparison_of(cell).verdict == "better" for cell in compared)
    cell = recommended(compared, costs)[0] if better else max(compared, key=gain_of)
    found = comparison_of(cell)
    bounds = interval(found.low, found.high, sign=True)
    effect = f"{signed(found.difference)} {bounds}".strip()
    return (
        f"{task.label}: {cell.configuration.label} − {baseline} = {effect} in {cell.measure.name},"
        f" {_models(runs)}{_sizes(runs)}{count(found.count, 'seed')}."
    )


def _models(runs: Sequence[ConfiguredRun]) -> str:
    known = (run.configuration.model or run.record.observed.get("model_name") for run in runs)
    names = dict.fromkeys(Path(name).name or name for name in known if name)
    return f"{'model' if len(names) == 1 else 'models'} {listing(list(names))}, " if names else ""


def _sizes(runs: Sequence[ConfiguredRun]) -> str:
    """The numbers of examples, where the records have them."""
    results = [run.record.result for run in runs if run.record.result is not None]
    train = {found.train_examples for found in results if found.train_examples}
    evaluation = {found.eval_examples for found in results if found.eval_examples}
    parts = [
        f"{_range(sizes)} {name} examples"
        for sizes, name in ((train, "training"), (evaluation, "evaluation"))
        if sizes
    ]
    return f"{' and '.join(parts)}, " if parts else ""


def _range(sizes: set[int]) -> str:
    low, high = min(sizes), max(sizes)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
