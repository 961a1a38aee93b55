"""What a plan can show, estimated before the runs from the scatter of earlier ones."""

from __future__ import annotations

import math
from typing import Final

from hiddenkey.lab.claims.findings import Power
from hiddenkey.lab.claims.plan import Claim, Contrast, Scale
from hiddenkey.lab.claims.rule import LEVEL
from hiddenkey.lab.evidence import planning
from hiddenkey.lab.evidence.planning import Design

_IN_POINTS: Final = ("metric", "best", "gap")
"""Measures that the known deviation, in percentage points, is taken to hold for."""


def expected_power(claim: Claim, scale: Scale) -> tuple[Power, ...]:
    """Estimate what a claim's contrasts could show at a scale.

    ``scale.scatter`` has the standard deviation σ of a paired difference between two configurations
    on one task. With configurations whose values vary alike and independently once the seed's
    common part has cancelled, a contrast with weights w varies by

        σ · √(Σ w² / 2),

    and the mean over k tasks by √k less. The chances are of one question by itself; a claim that
    needs several is decided less often. Contrasts that are not in points, or expect a range, have
    none.
    """
    tasks = len(claim.tasks) if claim.scope == "pooled" else 1
    return tuple(
        _power(contrast, scale, tasks)
        for contrast in claim.contrasts
        if tasks and contrast.measure in _IN_POINTS and contrast.expect != "between"
    )


def _power(contrast: Contrast, scale: Scale, tasks: int) -> Power:
    squares = math.fsum(weight**2 for weight in contrast.weights.values())
    seeds, deviation = len(scale.seeds), scale.scatter.deviation * math.sqrt(squares / 2)
    both = Design(seeds, deviation, tasks, level=2 * LEVEL)
    # "equal" can fail in two directions, each of which has half of the level
    design = Design(seeds, deviation, tasks, level=LEVEL) if contrast.expect == "equal" else both
    detects = excludes = design.power(contrast.margin)
    if contrast.expect == "equal":
        excludes = planning.equivalence(seeds, design.spread, contrast.margin, LEVEL)
    needed = design.pairs_needed(contrast.margin)
    return Power(contrast, seeds, tasks, both.half_width(), detects, excludes, needed)
