"""Shrinks the configuration of any transformer until its model is tiny, by what its fields mean.

Nothing here knows a model: fields are known by their names (``sizes``), lists with one entry
for each layer are cut so that every kind of layer stays (``layers``), and what transformers derives
itself (fields whose default is ``None``) is left to it where it can be.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any, Final

from model_tables import layers, sizes
from model_tables.exceptions import EXCEPTIONS

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def shrink(config: PretrainedConfig, *, fill: bool = False, **more: Any) -> PretrainedConfig:
    """Return a tiny configuration of the same class.

    Args:
        config: usually with all fields at their defaults.
        fill: also give a small size to the fields that have none, for models that need it.
        more: fields whose values are given.
    """
    more = EXCEPTIONS.get(config.model_type, {}) | more
    fields = {name: _value(config, name) for name in _field_names(config)}
    stack = layers.Stack(fields)
    # what a composite says of its parts differs from their own defaults
    said = {n: v for n, v in fields.items() if _default(config, n) not in (None, v)}
    small = said | _smaller_fields(fields, stack, fill) | _smaller_overrides(config, fields, stack)
    derived = {n for n in small if n not in stack.lists and _default(config, n) is None}
    given = {name: value for name, value in small.items() if name not in derived or fill} | more
    try:
        first = type(config)(**given)
    except Exception:  # what transformers derives does not fit the rest, so all is given
        return type(config)(**(small | more))
    too_large = {
        name: small[name]
        for name in derived - set(more)
        if _is_larger(getattr(first, name, None), small[name])
    }
    return type(config)(**(given | too_large)) if too_large else first


def _smaller_fields(fields: dict[str, Any], stack: layers.Stack, fill: bool) -> dict[str, Any]:
    small: dict[str, Any] = {}
    for name, value in fields.items():
        cut = stack.cut(name, value)
        if hasattr(value, "to_dict"):
            new = shrink(value, fill=fill)
        elif cut is not None and not isinstance(cut, list | tuple):
            new = cut
        else:
            is_missing = fill and value is None and not sizes.is_token(name)
            new = sizes.smaller(
                name, _LARGE if is_missing else value if cut is None else cut, fields
            )
        if new is not value and new is not _LARGE:
            small[name] = new
    return small


def _smaller_overrides(
    config: PretrainedConfig, fields: dict[str, Any], stack: layers.Stack
) -> dict[str, Any]:
    """Shrink what a configuration says of single layers, keeping what is a multiple one."""
    spec = getattr(config, "_heterogeneity_spec", None)
    if spec is None:
        return {}

    def smaller(name: str, value: Any, own: dict[str, Any]) -> Any:
        whole = fields.get(name)
        if _is_multiple(value, whole) and value > whole:
            return value // whole * sizes.smaller(name, whole, fields)
        return sizes.smaller(name, value, own)

    kept = {new: spec.per_layer_overrides.get(old, {}) for new, old in enumerate(stack.kept)}
    return {
        "per_layer_config": {
            index: {
                name: smaller(name, value, fields | overrides) for name, value in overrides.items()
            }
            for index, overrides in kept.items()
            if overrides
        }
    }


_LARGE: Final = 1_000_000
"""Stands for the size of a field that has none."""


def _value(config: Any, name: str) -> Any:
    read = getattr(config, "_getattr_without_heterogeneous_validation", None)
    try:
        return read(name) if read else getattr(config, name)
    except AttributeError:
        return None


def _is_multiple(value: Any, whole: Any) -> bool:
    return isinstance(value, int) and isinstance(whole, int) and whole > 0 and value % whole == 0


def _field_names(config: PretrainedConfig) -> list[str]:
    if dataclasses.is_dataclass(config):
        names = [field.name for field in dataclasses.fields(config) if field.init]
    else:
        names = [*inspect.signature(type(config).__init__).parameters][1:]
    inherited = {"kwargs", "transformers_version", "architectures", "id2label", "label2id", "dtype"}
    return [name for name in names if name not in inherited]


def _default(config: PretrainedConfig, name: str) -> Any:
    if not dataclasses.is_dataclass(config):
        return inspect.signature(type(config).__init__).parameters[name].default
    found = [field for field in dataclasses.fields(config) if field.name == name]
    if not found:
        return inspect.Parameter.empty
    field = found[0]
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made


def _is_larger(value: Any, small: Any) -> bool:
    """Whether what was derived is not small by itself; lists of layers are always given."""
    if isinstance(value, list | tuple) or isinstance(small, list | tuple):
        return list(value or ()) != list(small or ())
    if isinstance(value, int) and isinstance(small, int):
        return value > 2 * small
    return hasattr(small, "to_dict") or isinstance(small, dict)
