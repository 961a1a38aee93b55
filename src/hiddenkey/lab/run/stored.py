"""Values of known types from what a JSON file holds."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Literal, Union

_LARGEST: Final = 1e300
_UNIONS: Final = (Union, types.UnionType)


hints_of: Any = lru_cache(typing.get_type_hints)  # thousands of records are read at a time


def _optional(kind: Any) -> frozenset[str]:
    """Fields that files of earlier versions lack: those with a default."""
    missing = dataclasses.MISSING
    return frozenset(
        field.name
        for field in dataclasses.fields(kind)
        if field.default is not missing or field.default_factory is not missing
    )


_optional_of: Any = lru_cache(_optional)


def build(hint: Any, value: Any, place: str = "") -> Any:
    """Return a value of a type from plain JSON types: dataclasses from objects, tuples from lists.

    A field with a default may be absent.

    Args:
        hint: the type, as an annotation says it.
        value: what the file holds.
        place: where it holds that, for messages.

    Raises:
        ValueError: if it is of another type, or a number is NaN or infinite.
    """
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Any, object):
        return value
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        hints = hints_of(hint)
        missing = hints.keys() - value.keys() - _optional_of(hint)
        differing = sorted(map(str, missing | (value.keys() - hints.keys())))
        if not differing:
            return hint(**{n: build(hints[n], each, f"{place}.{n}") for n, each in value.items()})  # type: ignore[operator]
        raise ValueError(f"{place or 'it'} lacks or does not know {', '.join(differing)}")
    if kind in _UNIONS:
        for part in parts:
            try:
                return build(part, value, place)
            except ValueError:
                continue
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(build(parts[0], each, f"{place}[{i}]") for i, each in enumerate(value))
    if kind is Mapping or kind is dict:
        if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
            return {name: build(parts[1], each, f"{place}.{name}") for name, each in value.items()}
    elif kind is Literal and isinstance(value, str | int) and value in parts:
        return value
    elif hint in (int, float) and not isinstance(value, bool):
        if isinstance(value, int | hint) and -_LARGEST < value < _LARGEST:
            return value
    elif hint in (str, bool, type(None)) and isinstance(value, hint):
        return value
    shown = getattr(hint, "__name__", str(hint)) if kind is None else str(hint)
    raise ValueError(f"{place.removeprefix('.') or 'it'} must be {shown}, got {value!r}")
