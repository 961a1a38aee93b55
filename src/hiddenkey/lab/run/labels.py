"""What a person calls a run: in lines of a command, in trackers and in Optuna's dashboard."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from hiddenkey.lab.run.options import TrainOptions


def label(options: TrainOptions, also: Collection[str] = (), *, seed: bool = True) -> str:
    """Name a run in one line.

    Args:
        options: its settings.
        also: names of further settings to show, ``rank`` or ``model``.
        seed: whether to show the seed.
    """
    words = [" + ".join((options.method, *options.also))]
    if options.rate is not None:
        words.append(f"rate {options.rate:g}")
    words += [f"{name} {rate:g}" for name, rate in options.rates.items()]
    if options.consistency_weight is not None:
        words.append(f"weight {options.consistency_weight:g}")
    parts = [options.task, " ".join(words)]
    if options.adapter != "lora":
        parts.append(options.adapter)
    if "rank" in also:
        parts.append(f"rank {options.rank}")
    if "model" in also:
        parts.append(Path(options.model).name)
    return ", ".join([*parts, f"seed {options.seed}"] if seed else parts)
