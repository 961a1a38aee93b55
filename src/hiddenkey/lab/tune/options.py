"""Settings of ``hiddenkey tune``: those of a plan, and a budget; light, so that help is quick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.run.limits import ABOVE_ZERO, ONE

METHODS: Final = ("lora", "temporal", "label-smoothing", "hiddenkey-minus", "hiddenkey")
"""What is tried where nobody says: the first after plain LoRA, at its own rate, is tried first."""

_DATA: Final = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class TuneOptions(Plan):
    """Choose method and settings on held-out training data, and confirm them on other seeds.

    'hiddenkey tune my.csv' needs nothing else; a plan's YAML file or --command do as well. It looks
    first whether plain LoRA overfits, gives plain LoRA and the other methods equally many trials,
    and ends with a verdict, a command and an adapter. Started again, it goes on.
    """

    sections = (*Plan.sections, ("runs", "budget of the choice"))

    methods: tuple[str, ...] = METHODS
    """What may be chosen; 'hiddenkey methods' lists all. The baseline is always among them."""
    seeds: tuple[int, ...] = ()
    """Seeds of the confirmation; none: as many as reach a verdict."""
    output: str = ""
    """Folder of the runs, the page and the adapter; none: tune/NAME of the data."""
    runs: int | None = ONE.default(None)
    """Training runs in all, shared between the choice and the confirmation; none: 12 trials each
    for the baseline and for the other methods, or --search.trials."""
    minutes: float | None = ABOVE_ZERO.default(None)
    """Time in place of --runs, estimated from a few steps, or from the first runs of a command."""
    by: Literal["metric", "loss"] = "metric"
    """What is chosen by and judged: the main metric after the last step, or the evaluation loss,
    which sees calibration too."""
    always: bool = False
    """Try the methods also where plain LoRA does not overfit."""


def with_source(words: Sequence[str]) -> list[str]:
    """Write the flag before a first word that names data or a plan."""
    if not words or words[0].startswith("-"):
        return list(words)
    is_data = Path(words[0]).suffix.lower() in _DATA
    return ["--init" if is_data else "--config", *words]
