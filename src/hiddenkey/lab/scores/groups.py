"""Groups of instances, and what a scorer returns for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

Reference = TypeVar("Reference")
Output = TypeVar("Output")


@dataclass(frozen=True)
class Scores:
    """The metrics of one set of outputs.

    Attributes:
        values: by metric, on the scale of the official scorer.
        skipped: why a metric of the family was not computed, by metric.
    """

    values: Mapping[str, float]
    skipped: Mapping[str, str] = field(default_factory=dict)


def select(
    references: Sequence[Reference], outputs: Sequence[Output], groups: Sequence[Sequence[int]]
) -> list[tuple[list[Reference], list[Output]]]:
    """Return the references and the outputs of each group, which is given by its indices."""
    return [
        ([references[index] for index in group], [outputs[index] for index in group])
        for group in groups
    ]
