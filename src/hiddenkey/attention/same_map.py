"""One draw for one attention map, however often the module at work asks for it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


class SameMap:
    """The draws of one call of a module, which may ask for one attention map several times.

    Differential attention, say, mixes two halves of the values by the same weights, with a call for
    each. A key that is dropped is dropped in both.
    """

    def __init__(self) -> None:
        self._operands: tuple[Tensor, Tensor] | None = None
        self._drawn: dict[str, Tensor] = {}

    def see(self, query: Tensor, key: Tensor) -> None:
        """Note what the map at work is computed from; another map has other draws."""
        seen = self._operands
        if seen is None or seen[0] is not query or seen[1] is not key:
            self._operands, self._drawn = (query, key), {}

    def once(self, position: str, draw: Callable[[], Tensor]) -> Tensor:
        """Return the keep mask of a position, drawn when the map is first asked for."""
        if position not in self._drawn:
            self._drawn[position] = draw()
        return self._drawn[position]
