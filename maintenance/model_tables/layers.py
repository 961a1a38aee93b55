"""Cuts a stack of layers to the few that show every kind of layer of the whole stack."""

from __future__ import annotations

import re
from typing import Any, Final

_COUNT: Final = re.compile(
    r"num_hidden_layers|n_layers?|num_layers|(\w+_)?(encoder|decoder|text|hidden)_layers"
    r"|num_(encoder|decoder)_layers|num_\w*layers(_per_stack)?|depth|num_blocks|\w+_num_layers"
)
_INDICES: Final = re.compile(r"\w*(layers|idxs|ids|indexes|indices)")
_FIRST: Final = re.compile(r"first_k_dense_replace|num_dense_layers|moe_layer_start_index")
_LAST: Final = re.compile(r"num_kv_shared_layers")
_PERIOD: Final = re.compile(
    r"\w*_period|\w*_interval|\w*sparse_step|\w*_every_n_layers|layer_group_size|\w*layer_step"
    r"|_?sliding_window_pattern|n_layers_per_attn_res_block|\w*_frequency"
)
_OFFSET: Final = re.compile(r"\w*_layer_offset")
_END: Final = re.compile(r"moe_layer_end_index")
_MAIN: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
FEWEST: Final = 2
MOST: Final = 8


class Stack:
    """The layers of one configuration, and those that are kept.

    A layer's kind is what all lists with one entry for each layer, all lists of layer indices and
    all counts of first or last layers say about it. The first layer of each kind is kept, at least
    two layers; where a period repeats, it becomes two and four layers are kept.

    Attributes:
        kept: indices of the layers that are kept.
        lists: names of the fields that list something about the layers.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self._main = next((name for name in _MAIN if _is_count(fields.get(name))), None)
        self._count = count = fields[self._main] if self._main else 0
        self._periods = {
            name
            for name, value in fields.items()
            if _PERIOD.fullmatch(name) and _is_count(value) and value > 1
        }
        said = {name: _entries(name, value, count) for name, value in fields.items()}
        self._entries = {name: entries for name, entries in said.items() if entries is not None}
        kept = _representatives(self._kinds(fields))
        if self._periods and len(kept) < 2 * FEWEST:
            kept += [index for index in range(count) if index not in kept]
            kept = sorted(kept[: 2 * FEWEST])
        self.kept: list[int] = kept
        self.lists: set[str] = set(self._entries)

    def cut(self, name: str, value: Any) -> Any:
        """Return what a field says about the kept layers; ``None`` if it does not speak of any."""
        if name == self._main:
            return len(self.kept)
        if name in self._entries:
            entries = [self._entries[name][index] for index in self.kept]
            if _is_indices(name, value, self._count):
                return type(value)(index for index, is_in in enumerate(entries) if is_in)
            return type(value)(entries)
        return self._cut_number(name, value) if _is_count(value) else None

    def _kinds(self, fields: dict[str, Any]) -> list[tuple[str, ...]]:
        """Say for each layer what each list and count says about it."""
        layers = range(self._count)
        columns: list[list[Any]] = [
            entries
            for entries in self._entries.values()
            if not any(isinstance(entry, float) for entry in entries)
        ]
        for name, value in fields.items():
            if _is_count(value) and _FIRST.fullmatch(name):
                columns.append([index < value for index in layers])
            elif _is_count(value) and _LAST.fullmatch(name):
                columns.append([index >= self._count - value for index in layers])
        return [tuple(repr(column[index]) for column in columns) for index in layers]

    def _cut_number(self, name: str, value: int) -> int | None:
        if _FIRST.fullmatch(name):
            return sum(index < value for index in self.kept)
        if _LAST.fullmatch(name):
            return sum(index >= self._count - value for index in self.kept)
        if _END.fullmatch(name):
            return len(self.kept) - 1
        if name in self._periods:
            return 2
        if _OFFSET.fullmatch(name):
            return min(value, 1)
        return min(value, FEWEST) if _COUNT.fullmatch(name) else None


def _representatives(kinds: list[tuple[str, ...]]) -> list[int]:
    """Return the first layer of each kind, filled up with the next layers to the fewest."""
    kept = sorted({kind: index for index, kind in reversed([*enumerate(kinds)])}.values())[:MOST]
    spare = [index for index in range(len(kinds)) if index not in kept]
    return sorted(kept + spare[: max(0, FEWEST - len(kept))])


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _entries(name: str, value: Any, count: int) -> list[Any] | None:
    """Return what a list says about each layer, or ``None`` if it is not about layers.

    It has an entry for each layer, or holds indices of layers, or kinds that begin anew.
    """
    if _is_indices(name, value, count):
        return [index in value for index in range(count)]
    if not isinstance(value, list | tuple) or not count:
        return None
    begins_anew = name.endswith("types") and all(isinstance(entry, str) for entry in value)
    if len(value) == count or (begins_anew and 1 < len(value) < count):
        return [value[index % len(value)] for index in range(count)]
    return None


def _is_indices(name: str, value: Any, count: int) -> bool:
    return (
        isinstance(value, list | tuple)
        and _INDICES.fullmatch(name) is not None
        and 0 < len(value) <= count
        and all(_is_count(entry) and 0 <= entry < count for entry in value)
        and len(set(value)) == len(value)
    )
