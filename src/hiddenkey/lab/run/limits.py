"""Limits of numbers, declared beside the setting that they hold for, and checked together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

_NAME: Final = "limit"


@dataclass(frozen=True)
class Limit:
    """A rule for a number, or for each of a tuple's one or more.

    Attributes:
        rule: what it must be, in words.
        holds: whether a number is so.
        hint: what to do about one that is not.
    """

    rule: str
    holds: Callable[[float], bool]
    hint: str = "give a larger number"

    def default(self, value: Any, hint: str | None = None) -> Any:
        """Declare a dataclass field with this limit and a default value."""
        limit = self if hint is None else dataclasses.replace(self, hint=hint)
        return dataclasses.field(default=value, metadata={_NAME: limit})


_LARGEST: Final = 2**32
"""What no number of steps, epochs or tokens reaches; nobody would see such a run end."""

ONE: Final = Limit("at least 1", lambda value: value >= 1)
WORKERS: Final = Limit("from 1 to 256", lambda value: 1 <= value <= 256, "each is a process")
ZERO: Final = Limit("at least 0", lambda value: value >= 0, "0 switches it off")
ABOVE_ZERO: Final = Limit("above 0", lambda value: value > 0)
BELOW_ONE: Final = Limit("in [0, 1)", lambda value: 0 <= value < 1, "0 switches it off")


def limit_faults(options: Any) -> list[str]:
    """Return every broken limit of a dataclass, in the order of its fields."""
    faults = []
    for field in dataclasses.fields(options):
        limit, value = field.metadata.get(_NAME), getattr(options, field.name)
        if limit is None or value is None:
            continue
        numbers = value if isinstance(value, tuple) else (value,)
        if not numbers or not all(abs(each) < math.inf and limit.holds(each) for each in numbers):
            faults.append(f"{field.name} must be {limit.rule}, got {value!r}; {limit.hint}")
        elif max(numbers) >= _LARGEST:
            faults.append(f"{field.name} must be below 2**32, got {value!r}; give a smaller number")
    return faults
