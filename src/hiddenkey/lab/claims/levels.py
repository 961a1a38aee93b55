"""Single arms over their seeds, by the arithmetic of contrasts: their level, and what they gain."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from hiddenkey.lab.claims.effects import effect
from hiddenkey.lab.claims.findings import Effect, Finding, Values
from hiddenkey.lab.claims.plan import BASELINE, COST, Contrast, Scale


def tasks_of(finding: Finding, scale: Scale, measure: str) -> tuple[str, ...]:
    """Return the task setups that count; for what a step costs these are all."""
    planned = finding.claim.tasks.get(scale.name, ())
    return tuple(task for task in planned if measure == COST or task not in finding.left_out)


def level(values: Values, tasks: Sequence[str], arm: str, measure: str) -> Effect:
    """Return an arm's mean over tasks and seeds, with its interval."""
    return effect(_shown(arm, {arm: 1.0}, measure), values, tasks)


def gain(values: Values, tasks: Sequence[str], arm: str, measure: str) -> Effect:
    """Return an arm's difference to plain LoRA, seed by seed."""
    return effect(_shown(arm, {arm: 1.0, BASELINE: -1.0}, measure), values, tasks)


def deviation(found: Effect) -> float | None:
    """Return the standard deviation over the seeds; ``None`` below two."""
    return statistics.stdev(found.values) if len(found.values) > 1 else None


def _shown(arm: str, weights: dict[str, float], measure: str) -> Contrast:
    """A contrast that is shown, not judged."""
    return Contrast(arm, weights, measure, "better", margin=0.0)
