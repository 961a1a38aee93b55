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

    def default(self, value: Any) -> Any:
        """Declare a dataclass field with this limit and a default value."""
        return dataclasses.field(default=value, metadata={_NAME: self})

    def fault(self, name: str, value: Any) -> list[str]:
        """Say what is wrong with a value; ``None`` is a setting that was left out."""
        if value is None:
            return []
        numbers = value if isinstance(value, tuple) else (value,)
        if numbers and all(math.isfinite(each) and self.holds(each) for each in numbers):
            return []
        return [f"{name} must be {self.rule}, got {value!r}; {self.hint}"]


def at_least(least: int, hint: str = "give a larger number") -> Limit:
    """Return the limit of a number that has a smallest value."""
    return Limit(f"at least {least}", lambda value: value >= least, hint)


def above_zero(hint: str = "give a larger number") -> Limit:
    """Return the limit of a number that must be positive."""
    return Limit("above 0", lambda value: value > 0, hint)


def share_below_one(hint: str) -> Limit:
    """Return the limit of a share that may be 0."""
    return Limit("in [0, 1)", lambda value: 0 <= value < 1, hint)


ONE: Final = at_least(1)


def limit_faults(options: Any) -> list[str]:
    """Return every broken limit of a dataclass, in the order of its fields."""
    return [
        fault
        for field in dataclasses.fields(options)
        if _NAME in field.metadata
        for fault in field.metadata[_NAME].fault(field.name, getattr(options, field.name))
    ]
