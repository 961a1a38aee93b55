"""What a plan may say of the method that is attached inside of somebody else's command.

``common``, ``per_task`` and ``per_method`` take the settings of ``hiddenkey run`` for it, beside
the rate and weight that a plan varies: which layers drop, say, or which weights are evaluated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from hiddenkey.launch import LaunchSettings

VARIED: Final[tuple[str, ...]] = ("rate", "consistency_weight")
"""Settings of a method that are a command's own, since a plan varies them."""


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return what a field of a dataclass has where nobody gives it."""
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


DEFAULTS: Final[Mapping[str, Any]] = {
    field.name: default_of(field)
    for field in dataclasses.fields(LaunchSettings)
    if field.name not in ("method", "step_cost", *VARIED)
}
"""The other settings of an attached method, and what holds where nobody gives them.

A comparison measures costs by itself, when its runs are done.
"""


def given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return of an attached method's settings what is not the default, in their order.

    Args:
        settings: by name, also as JSON has them, and among others.
    """
    found = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in settings.items()
        if name in DEFAULTS
    }
    return {name: found[name] for name, own in DEFAULTS.items() if found.get(name, own) != own}


def named(settings: Mapping[str, Any]) -> list[str]:
    """Name what :func:`given` returned, in a few words each: ``inference average``."""
    return [f"{name.replace('_', ' ')} {_shown(value)}" for name, value in settings.items()]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name} {_shown(own)}" for name, own in value.items())
    if isinstance(value, tuple):
        return "+".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
