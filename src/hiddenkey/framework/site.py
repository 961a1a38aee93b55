"""One place where an attached configuration acts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """One place where an attached configuration acts.

    Attributes:
        name: module, as the transformer names it (without PEFT's prefix).
        layer: index of its transformer layer; ``None`` for the positions ``input`` and ``output``.
        position: where noise enters.
        pattern: which units are dropped together.
        rate: dropout rate.
        rescale: what happens to the rest.
        kernel: ``fused``, ``reference`` or ``intercepted`` for attention, ``hook`` elsewhere.
        member: what distinguishes it from others of its position in its layer, such as ``cross``;
            empty where there is one only.
    """

    name: str
    layer: int | None
    position: str
    pattern: str
    rate: float
    rescale: str
    kernel: str
    member: str = ""

    @property
    def key(self) -> str:
        """Short name for logs, such as ``attention_logits/3`` or ``attention_logits/3/cross``."""
        place = self.position if self.layer is None else f"{self.position}/{self.layer}"
        return f"{place}/{self.member}" if self.member else place
