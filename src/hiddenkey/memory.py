"""What memory this process has taken."""

from __future__ import annotations

import sys
from typing import Final

_UNIT_BYTES: Final = 1 if sys.platform == "darwin" else 2**10
"""What Unix systems count in: bytes on macOS, kibibytes elsewhere."""


def peak_resident_mib() -> float | None:
    """Return this process's largest resident memory, in MiB; ``None`` where no system call says."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        peak = getattr(psutil.Process().memory_info(), "peak_wset", None)
        return None if peak is None else peak / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT_BYTES / 2**20
