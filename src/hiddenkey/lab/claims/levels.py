"""Single configurations over their seeds: their level, and what they gain."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from hiddenkey.lab.claims.effects import effect
from hiddenkey.lab.claims.findings import Effect, Values
from hiddenkey.lab.claims.plan import BASELINE, Contrast


def level(values: Values, tasks: Sequence[str], name: str, measure: str) -> Effect:
    """Return a configuration's mean over tasks and seeds, with its interval."""
    return effect(_shown(name, {name: 1.0}, measure), values, tasks)


def gain(values: Values, tasks: Sequence[str], name: str, measure: str) -> Effect:
    """Return a configuration's difference to plain LoRA, seed by seed."""
    return effect(_shown(name, {name: 1.0, BASELINE: -1.0}, measure), values, tasks)


def deviation(found: Effect) -> float | None:
    """Return the standard deviation over the seeds; ``None`` below two."""
    return statistics.stdev(found.values) if len(found.values) > 1 else None


def _shown(name: str, weights: dict[str, float], measure: str) -> Contrast:
    """A contrast that is shown, not judged."""
    return Contrast(name, weights, measure, "better", margin=0.0)
