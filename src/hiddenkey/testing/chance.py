"""How far a measured share may be from a rate by chance alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

# Standard errors of a mean over 16 or more values. A check runs for thousands of sites and must not
# cry wolf: seven of Student's t with 15 degrees of freedom are passed once in 230,000 times.
_REACH = 7.0


def spread(values: Sequence[float]) -> float:
    """Return how far the mean of 16 or more independent values may be from its expectation."""
    return _REACH * statistics.stdev(values) / math.sqrt(len(values))
