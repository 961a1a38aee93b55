"""Where a configuration acts on one model."""

from __future__ import annotations

from dataclasses import dataclass

from hiddenkey.anatomy import Gap, Part
from hiddenkey.framework.config import Drop
from hiddenkey.framework.positions import POSITIONS
from hiddenkey.framework.site import Site


@dataclass(frozen=True)
class Place:
    """A drop at a module."""

    drop: Drop
    part: Part
    site: Site


@dataclass(frozen=True)
class SitePlan:
    """Where a configuration acts, and in which layers it finds nothing to act on.

    Attributes:
        places: where it acts.
        gaps: layers in which a position does not exist.
        needs_map: why attention must compute a map; ``None``: it may take the fused path wherever a
            module hands its queries over.
    """

    places: tuple[Place, ...]
    gaps: tuple[Gap, ...]
    needs_map: str | None

    @property
    def fuses(self) -> bool:
        """Whether attention may take the fused path."""
        return self.needs_map is None

    @property
    def attention(self) -> list[Place]:
        """The places inside attention modules."""
        return [p for p in self.places if POSITIONS[p.drop.position].attention]

    @property
    def around(self) -> list[Place]:
        """The places before, after and inside of other modules."""
        return [p for p in self.places if not POSITIONS[p.drop.position].attention]
