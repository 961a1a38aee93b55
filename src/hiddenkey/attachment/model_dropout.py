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

from hiddenkey.attachment.silent_config import SilentRate, own_config

_NOISE = re.compile(r"dropout|pdrop$|drop_?(prob|path|rate)|layer_?drop")

OWN_DROPOUT: Final = "the model's own dropout"

_BEFORE: Final = "_hiddenkey_dropout"
"""A module's attribute: by rate, what it was and how many attachments switched it off."""

_ALSO_IN_EVALUATION = ("moe_token_dropout",)  # NLLB-MoE scales its experts by it


@dataclass(frozen=True)
class Setting:
    """One dropout rate of a model.

    Attributes:
        module: what reads it.
        attribute: its name in the module, or in the module's config.
        rate: what it was.
        silent: keeps it from a module that takes it from its config; ``None``: it was set to zero.
    """

    module: Any
    attribute: str
    rate: float
    silent: SilentRate | None = None


def switch_off(transformer: nn.Module) -> list[Setting]:
    """Set every dropout rate of a model to zero, except those inside adapters.

    Rates are the ``p`` of dropout modules, and numbers that a module keeps under a name like
    ``dropout`` and hands to ``F.dropout`` or to attention; those by which whole layers are skipped
    (``layerdrop``, ``drop_path``) are among them. The jitter of routers stays, as some models use
    it in evaluation too. Configs keep their rates, so that a model which is saved meanwhile says
    what its user configured; a module that takes a rate from its config reads zero.

    Returns:
        What was changed, for :func:`restore`.
    """
    settings: list[Setting] = []
    try:
        for module in dict.fromkeys(_own_modules(transformer)):
            for name, rate in _rates(module).items():
                settings.append(_set_to_zero(module, name, rate))
            for name, rate in _read_from_config(module).items():
                shown = module is transformer or hasattr(module, "save_pretrained")
                silent = SilentRate(module, name, only_in_calls=shown)
                settings.append(Setting(module, name, rate, silent))
    except BaseException:
        restore(settings)
        raise
    return settings


def restore(settings: list[Setting]) -> None:
    """Give a model back the rates that :func:`switch_off` changed.

    A rate that another attachment switched off too, in a module that two models share, comes back
    with the last of them.
    """
    for setting in settings:
        if setting.silent is not None:
            setting.silent.remove()
        else:
            _set_back(setting)


def described(settings: list[Setting]) -> str | None:
    """Say in one line what :func:`switch_off` changed; ``None`` if all was off before."""
    places = Counter(setting.rate for setting in settings if setting.rate)
    if not places:
        return None
    was = " and ".join(f"{rate:g} in {count}" for rate, count in sorted(places.items()))
    plural = "" if sum(places.values()) == 1 else "s"
    return f"{OWN_DROPOUT}: off, was {was} place{plural} (keep_model_dropout=True leaves it on)"


def _set_to_zero(module: nn.Module, name: str, rate: float) -> Setting:
    before = module.__dict__.setdefault(_BEFORE, {})
    known, holders = before.get(name, (rate, 0))
    if rate:  # somebody set it again, as in a copy of part of an attached model
        known, holders = rate, 0
    before[name] = (known, holders + 1)
    setattr(module, name, 0.0)
    return Setting(module, name, known)


def _set_back(setting: Setting) -> None:
    module, name = setting.module, setting.attribute
    before = module.__dict__.get(_BEFORE, {})
    rate, holders = before.pop(name, (setting.rate, 1))
    if holders > 1:
        before[name] = (rate, holders - 1)
    else:
        setattr(module, name, rate)
    if not before:
        module.__dict__.pop(_BEFORE, None)


def _own_modules(module: nn.Module) -> Iterator[nn.Module]:
    """Walk a model's own modules: of an adapter, what it was put around and nothing else."""
    inner = getattr(module, "base_layer", None)
    if isinstance(inner, nn.Module):
        yield from _own_modules(inner)
        return
    yield module
    for child in module.children():
        yield from _own_modules(child)


def _rates(module: nn.Module) -> dict[str, float]:
    """Return the rates that a module keeps itself."""
    if isinstance(module, _DropoutNd):
        return {"p": module.p}
    return {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, float) and _NOISE.search(key) and key not in _ALSO_IN_EVALUATION
    }


def _read_from_config(module: nn.Module) -> dict[str, float]:
    """Return the rates that a module's own code takes from its config in each pass."""
    config = own_config(module)
    if config is None or isinstance(module, _DropoutNd):
        return {}
    kind: Any = type(module)
    names = sorted(name for name in _config_fields(kind) if _NOISE.search(name))
    rates = {name: getattr(config, name, None) for name in names}
    return {name: rate for name, rate in rates.items() if isinstance(rate, float) and rate}


@cache
def _config_fields(kind: type[nn.Module]) -> frozenset[str]:
    """Return what a class's forward method reads from its config, with those that it extends."""
    found: set[str] = set()
    for base in kind.__mro__:
        if "forward" not in vars(base):
            continue
        try:
            source = inspect.getsource(vars(base)["forward"])
        except (OSError, TypeError):  # no source, such as in a notebook
            break
        found.update(re.findall(r"self\.config\.(\w+)", source))
        if "super()" not in source:
            break
    return frozenset(found)
