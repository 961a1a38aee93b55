"""The former home of :mod:`hiddenkey.framework.patterns`, kept for those who import it."""

from hiddenkey.framework.patterns import PATTERNS, KeepMask

__all__ = ["PATTERNS", "KeepMask"]
