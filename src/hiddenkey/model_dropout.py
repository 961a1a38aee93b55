"""Switches a model's own dropout off, and back on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


@dataclass(frozen=True)
class Setting:
    """One dropout rate of a model: an attribute of a module, and what it was."""

    module: nn.Module
    attribute: str
    rate: float


def switch_off(transformer: nn.Module) -> list[Setting]:
    """Set every dropout rate of a model to zero, except those inside adapters.

    Rates are the ``p`` of dropout modules, and numbers that a module keeps under a name with
    ``dropout`` in it and hands to ``F.dropout`` or to attention.

    Returns:
        What was changed, for :func:`restore`.
    """
    settings: list[Setting] = []
    adapters: list[str] = []
    for name, module in transformer.named_modules():
        if name and name.startswith(tuple(adapters)):
            continue
        if hasattr(module, "base_layer"):
            adapters.append(f"{name}.")
        elif isinstance(module, _DropoutNd):
            settings.append(Setting(module, "p", module.p))
        else:
            settings += [Setting(module, key, rate) for key, rate in _rates(module).items()]
    for setting in settings:
        setattr(setting.module, setting.attribute, 0.0)
    return settings


def restore(settings: list[Setting]) -> None:
    """Give a model back the rates that :func:`switch_off` changed."""
    for setting in settings:
        setattr(setting.module, setting.attribute, setting.rate)


def _rates(module: nn.Module) -> dict[str, Any]:
    return {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, float) and ("dropout" in key or key.endswith("pdrop"))
    }
