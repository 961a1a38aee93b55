"""What a scorer returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scores:
    """The metrics of one set of outputs.

    Attributes:
        values: by metric, on the scale of the official scorer.
        skipped: why a metric of the family was not computed, by metric.
    """

    values: Mapping[str, float]
    skipped: Mapping[str, str] = field(default_factory=dict)
