"""Numbers as the statistics take them: finite, and equal where only rounding sets them apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
else:
    Array = Any

_BITS: Final = 34
"""Size of the largest value in steps of the grid, as a power of two: ten decimal digits are kept,
more than a metric or a float32 loss has, and the rounding of float64 is far below one step."""


def finite(values: Sequence[Any], what: str) -> list[float]:
    """Return the values as floats.

    Raises:
        ValueError: if there are none, or one of them is missing, NaN, infinite or no number.
    """
    bad = [value for value in values if not isinstance(value, Real) or not math.isfinite(value)]
    if bad:
        raise ValueError(
            f"{what} must be finite numbers, got {bad[0]!r}; leave out runs without a value, and"
            " report how many they are"
        )
    if not len(values):
        raise ValueError(f"{what} must hold at least one number, got none; finish a run first")
    return [float(value) for value in values]


def grid(*samples: Sequence[float]) -> int:
    """Return the exponent ``e`` of a grid with steps of ``2**-e``, fine enough for all the values.

    0.9 − 0.8 and 0.8 − 0.7 differ in their last bits. On a grid they are the same whole number, so
    that ties are ties and equal differences do not vary.
    """
    largest = max(abs(value) for sample in samples for value in sample)
    return _BITS - math.frexp(largest)[1]


def on_grid(values: Array, exponent: int) -> Array:
    """Return the values as whole numbers of steps of ``2**-exponent``."""
    import numpy as np

    return np.rint(np.ldexp(values, exponent))


def accepted(level: float) -> float:
    """Return the level of a test.

    Raises:
        ValueError: if it is no share between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}; 0.05 is usual")
    return float(level)
