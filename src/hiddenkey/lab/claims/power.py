"""What a plan can show, estimated before the runs from the scatter of earlier ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from hiddenkey.lab.claims.plan import Claim, Contrast, Scale
from hiddenkey.lab.evidence.inference import LEVEL
from hiddenkey.lab.evidence.planning import Design

_IN_POINTS: Final = ("metric", "best", "gap")
"""Measures that the known deviation, in percentage points, is taken to hold for."""


@dataclass(frozen=True)
class Power:
    """What the plan could show of one question by itself.

    Attributes:
        contrast: the question.
        design: seeds, tasks, and how much the question's effect varies between seeds.
    """

    contrast: Contrast
    design: Design

    @property
    def half_width(self) -> float:
        """Expected half width of the 95 % interval, in points; infinite below three seeds."""
        design = self.design
        return Design(design.pairs, design.deviation, design.tasks).half_width()

    @property
    def detects(self) -> float:
        """Chance that an effect as large as the margin is distinguished from 0."""
        return self.design.power(self.contrast.margin)

    @property
    def excludes(self) -> float:
        """Chance that an effect of 0 is shown to be smaller than the margin."""
        if self.contrast.expect != "equal":
            return self.detects
        design = self.design
        plain = Design(design.pairs, design.deviation, design.tasks)
        return plain.equivalence(self.contrast.margin)

    @property
    def needed(self) -> int | None:
        """Fewest seeds with which ``detects`` is 80 %; ``None`` above 1,000."""
        return self.design.pairs_needed(self.contrast.margin)


def design(contrast: Contrast, seeds: int, deviation: float, tasks: int = 1) -> Design:
    """Return the test of a question; one that can fail in two directions has half of the level."""
    level = LEVEL / 2 if contrast.expect == "equal" else LEVEL
    return Design(seeds, deviation, tasks, level=level)


def expected_power(claim: Claim, scale: Scale) -> tuple[Power, ...]:
    """Estimate what a claim's contrasts could show at a scale.

    ``scale.power`` has the standard deviation σ of a paired difference between two configurations
    on one task. With configurations whose values vary alike and independently once the seed's
    common part has cancelled, a contrast with weights w varies by

        σ · √(Σ w² / 2),

    and the mean over k tasks by √k less. A claim that needs several questions is decided less
    often. Contrasts that are not in points, or expect a range, have none.
    """
    tasks = len(claim.tasks) if claim.scope == "pooled" else 1
    found = []
    for contrast in claim.contrasts:
        if tasks and contrast.measure in _IN_POINTS and contrast.expect != "between":
            squares = math.fsum(weight**2 for weight in contrast.weights.values())
            deviation = scale.power.deviation * math.sqrt(squares / 2)
            found.append(Power(contrast, design(contrast, len(scale.seeds), deviation, tasks)))
    return tuple(found)
