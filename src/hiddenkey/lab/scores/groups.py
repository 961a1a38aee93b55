"""Groups of instances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Reference = TypeVar("Reference")
Output = TypeVar("Output")


def select(
    references: Sequence[Reference], outputs: Sequence[Output], groups: Sequence[Sequence[int]]
) -> list[tuple[list[Reference], list[Output]]]:
    """Return the references and the outputs of each group, which is given by its indices."""
    return [
        ([references[index] for index in group], [outputs[index] for index in group])
        for group in groups
    ]
