"""The former home of :mod:`hiddenkey.framework.positions`, kept for those who import it."""

from hiddenkey.framework.positions import POSITIONS, Position

__all__ = ["POSITIONS", "Position"]
