"""A plugin for axolotl, which is told in YAML what to train.

The key ``plugins`` lists ``hiddenkey.integrations.axolotl.HiddenKeyPlugin``; the keys of
:class:`HiddenKeyArgs`, such as ``hiddenkey_method`` and ``hiddenkey_rate``, say what to attach.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from pydantic import BaseModel
from transformers import TrainerCallback

from hiddenkey.errors import ConfigError
from hiddenkey.framework.config import DropoutConfig
from hiddenkey.framework.inference import Inference
from hiddenkey.integrations.callback import HiddenKeyCallback
from hiddenkey.integrations.configured import named_config

_PREFIX = "hiddenkey_"
_USED = {"inference": "weights", "average_part": "part", "ema_decay": "decay"}


class HiddenKeyArgs(BaseModel):
    """The keys that the plugin adds to axolotl's; see the flags of ``hiddenkey run``."""

    hiddenkey_method: str = "hiddenkey"
    hiddenkey_rate: float | None = None
    hiddenkey_rates: dict[str, float] | None = None
    hiddenkey_consistency_weight: float | None = None
    hiddenkey_consistency_every: int | None = None
    hiddenkey_layers: list[int] | None = None
    hiddenkey_keep_model_dropout: bool = False
    hiddenkey_kernel: str = "auto"
    hiddenkey_inference: str = "last"
    hiddenkey_average_part: float = 0.5
    hiddenkey_ema_decay: float = 0.99


def _base() -> Any:
    """Return axolotl's class of plugins; without axolotl, nobody asks for more than is here."""
    return import_module("axolotl.integrations.base").BasePlugin if find_spec("axolotl") else object


class HiddenKeyPlugin(_base()):  # type: ignore[misc]
    """Gives axolotl's trainer a :class:`~hiddenkey.integrations.callback.HiddenKeyCallback`."""

    def get_input_args(self) -> str:
        """Return the name of the keys' model."""
        return f"{__name__}.{HiddenKeyArgs.__name__}"

    def register(self, cfg: Any) -> None:
        """Check the keys, before anything is loaded.

        Raises:
            ConfigError: with every fault.
        """
        _configs(cfg)

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[TrainerCallback]:
        """Return the callback, which attaches when training begins."""
        kernel: Any = cfg.get(f"{_PREFIX}kernel") or "auto"
        config, inference = _configs(cfg)
        return [HiddenKeyCallback(config, kernel=kernel, inference=inference)]


def _configs(cfg: Any) -> tuple[DropoutConfig, Inference]:
    known = {name.removeprefix(_PREFIX) for name in HiddenKeyArgs.model_fields}
    given = {name.removeprefix(_PREFIX): cfg[name] for name in cfg if name.startswith(_PREFIX)}
    faults = [
        f"{_PREFIX}{name} is not a key; known are {', '.join(sorted(known))} with {_PREFIX} before"
        for name in sorted(given.keys() - known)
    ]
    set_keys = {name: value for name, value in given.items() if name in known and value is not None}
    used = {own: set_keys.pop(name) for name, own in _USED.items() if name in set_keys}
    inference, config = Inference(), None
    try:
        inference = Inference(**used)
    except ConfigError as error:
        faults += [f"{_PREFIX}* keys: {each}" for each in error.faults]
    try:
        config = named_config(set_keys.pop("method", "hiddenkey"), **set_keys)
    except ConfigError as error:
        faults += [f"{_PREFIX}* keys: {each}" for each in error.faults]
    if faults or config is None:
        raise ConfigError(faults)
    return config, inference
