"""Switches a model's own dropout off, and back on."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

_NOISE = re.compile(r"dropout|pdrop$|drop_?(prob|path|rate)|layer_?drop")

OWN_DROPOUT: Final = "the model's own dropout"

_ALSO_IN_EVALUATION = ("moe_token_dropout",)  # NLLB-MoE scales its experts by it


@dataclass(frozen=True)
class Setting:
    """One dropout rate of a model: an attribute of a module or its config, and what it was."""

    module: Any
    attribute: str
    rate: float


def switch_off(transformer: nn.Module) -> list[Setting]:
    """Set every dropout rate of a model to zero, except those inside adapters.

    Rates are the ``p`` of dropout modules, and numbers that a module keeps under a name like
    ``dropout`` and hands to ``F.dropout`` or to attention; those by which whole layers are skipped
    (``layerdrop``, ``drop_path``) are among them. The jitter of routers stays, as some models use
    it in evaluation too.

    Returns:
        What was changed, for :func:`restore`.
    """
    settings: list[Setting] = []
    for module in dict.fromkeys(_own_modules(transformer)):
        if isinstance(module, _DropoutNd):
            settings.append(Setting(module, "p", module.p))
        else:
            settings += [Setting(module, key, rate) for key, rate in _rates(module).items()]
            settings += _read_from_config(module)
    for setting in settings:
        setattr(setting.module, setting.attribute, 0.0)
    return settings


def restore(settings: list[Setting]) -> None:
    """Give a model back the rates that :func:`switch_off` changed."""
    for setting in settings:
        setattr(setting.module, setting.attribute, setting.rate)


def described(settings: list[Setting]) -> str | None:
    """Say in one line what :func:`switch_off` changed; ``None`` if all was off before."""
    places = Counter(setting.rate for setting in settings if setting.rate)
    if not places:
        return None
    was = " and ".join(f"{rate:g} in {count}" for rate, count in sorted(places.items()))
    plural = "" if sum(places.values()) == 1 else "s"
    return f"{OWN_DROPOUT}: off, was {was} place{plural} (keep_model_dropout=True leaves it on)"


def _own_modules(module: nn.Module) -> Iterator[nn.Module]:
    """Walk a model's own modules: of an adapter, what it was put around and nothing else."""
    inner = getattr(module, "base_layer", None)
    if isinstance(inner, nn.Module):
        yield from _own_modules(inner)
        return
    yield module
    for child in module.children():
        yield from _own_modules(child)


def _rates(module: nn.Module) -> dict[str, Any]:
    return {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, float) and _NOISE.search(key) and key not in _ALSO_IN_EVALUATION
    }


def _read_from_config(module: nn.Module) -> list[Setting]:
    """Return the rates that a module's own code takes from its config in each pass."""
    config = getattr(module, "config", None)
    if config is None:
        return []
    kind: Any = type(module)
    names = [name for name in _config_fields(kind) if _NOISE.search(name)]
    rates = {name: getattr(config, name, None) for name in names}
    return [Setting(config, name, r) for name, r in rates.items() if isinstance(r, float) and r]


@cache
def _config_fields(kind: type[nn.Module]) -> frozenset[str]:
    try:
        source = inspect.getsource(kind.forward)
    except (OSError, TypeError):  # no source, such as in a notebook
        return frozenset()
    return frozenset(re.findall(r"self\.config\.(\w+)", source))
