"""What to drop where: the configuration, its validation and its file.

The three fields of :class:`Drop` are two of the axes of *LoRA Meets Dropout under a Unified
Framework* (arXiv 2403.00812) and half of the third: where noise enters, which units are dropped
together, and by which factor the kept ones are rescaled. The other half of the third axis is in
:mod:`hiddenkey.framework.consistency`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hiddenkey.errors import ConfigError, is_number, is_one_of, not_one_of
from hiddenkey.files import write_whole
from hiddenkey.framework.compensation import RESCALES
from hiddenkey.framework.consistency import (
    Consistency,
    consistency_faults,
    is_count,
)
from hiddenkey.framework.patterns import PATTERNS
from hiddenkey.framework.positions import ATTENTION_KINDS, POSITIONS
from hiddenkey.framework.schedule import RateSchedule

CONFIG_FILE: Final = "hiddenkey_config.json"


@dataclass(frozen=True)
class Drop:
    """One kind of noise.

    Attributes:
        position: where it enters; a key of ``hiddenkey.framework.positions.POSITIONS``.
        pattern: which units are dropped together; a key of
            ``hiddenkey.framework.patterns.PATTERNS``.
        rate: probability that a unit is dropped, in [0, 1).
        rescale: what happens to the kept units; ``None`` takes the position's own rule.
    """

    position: str
    pattern: str
    rate: float
    rescale: str | None = None

    @property
    def rescaling(self) -> str:
        """The rule that applies: ``rescale``, or the position's own where it is ``None``."""
        return self.rescale if self.rescale is not None else POSITIONS[self.position].rescales[0]


@dataclass(frozen=True)
class DropoutConfig:
    """A whole method: its drops, its loss, and how they are laid on a model.

    Raises:
        ConfigError: on construction, with every fault of the configuration.

    Attributes:
        drops: the kinds of noise; at most one for each position.
        consistency: the loss between two passes, or ``None``.
        layers: indices of the transformer layers that drop; ``None`` means all. Positions outside
            the layers (``input``, ``output``) are not affected.
        keep_model_dropout: leave the model's own dropout on; off by default, so that the only noise
            is the configured one. LoRA's own dropout is never touched.
        share_heads: draw one attention mask for all heads of a sample instead of one for each.
        keep_first: in causal attention, never drop the first visible key of a sequence. Otherwise a
            query that would lose all its keys keeps them all.
        hidden_modules: regular expression that fully matches the names of the second feed-forward
            layers, for models in which their shape is ambiguous; ``None`` finds them. In a network
            without attention it names the modules, of any kind, whose outputs are dropped.
        attention_modules: regular expression that fully matches the names of the attention modules,
            for models of one's own whose attention is not found; ``None`` finds them.
        attention: which attention drops keys, ``self``, ``cross`` or both; models without
            cross-attention have only the first.
        schedule: how the rates change during training, where the method says so. Trainers follow it
            (``watch``, the callbacks, ``hiddenkey run``); a loop of one's own hands
            ``schedule.rates(...)`` to ``Attachment.set_rates``.
    """

    drops: tuple[Drop, ...] = ()
    consistency: Consistency | None = None
    layers: tuple[int, ...] | None = None
    keep_model_dropout: bool = False
    share_heads: bool = False
    keep_first: bool = True
    hidden_modules: str | None = None
    attention_modules: str | None = None
    attention: tuple[str, ...] = ATTENTION_KINDS
    schedule: RateSchedule | None = None

    def __post_init__(self) -> None:
        for name in ("drops", "layers", "attention"):
            if isinstance(value := getattr(self, name), list | range):
                object.__setattr__(self, name, tuple(value))
        if faults := find_faults(self):
            raise ConfigError(faults)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON types."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DropoutConfig:
        """Build a configuration from :meth:`to_dict`'s form.

        Raises:
            ConfigError: with every unknown key, wrong type or broken rule.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"a configuration must be an object, got {values!r}")
        faults = _unknown_keys(values, cls, "")
        fields = _known(values, cls)
        if isinstance(drops := fields.get("drops"), list | tuple):
            fields["drops"] = tuple(
                _read_drop(drop, f"drops[{index}]", faults) for index, drop in enumerate(drops)
            )
        if isinstance(consistency := fields.get("consistency"), Mapping):
            faults += _unknown_keys(consistency, Consistency, "consistency.")
            fields["consistency"] = Consistency(**_known(consistency, Consistency))
        if isinstance(schedule := fields.get("schedule"), Mapping):
            fields["schedule"] = _read_schedule(schedule, faults)
        try:
            config = cls(**fields)
        except ConfigError as error:
            raise ConfigError([*faults, *error.faults]) from None
        if faults:
            raise ConfigError(faults)
        return config

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``hiddenkey_config.json`` into ``folder`` and return its path."""
        return write_whole(Path(folder) / CONFIG_FILE, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> DropoutConfig:
        """Read ``hiddenkey_config.json`` from ``folder``, or from the file itself.

        Raises:
            ConfigError: if the file is missing, is not JSON or breaks a rule; the path is named.
        """
        path = Path(folder)
        path = path / CONFIG_FILE if path.is_dir() else path
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"{path} does not exist; give the folder that save_pretrained wrote"
            ) from None
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror}); give another") from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is not valid JSON ({error}); write it again") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path} must hold one JSON object, got {type(values).__name__}")
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError([f"{path}: {fault}" for fault in error.faults]) from None


def with_own_schedule(
    config: DropoutConfig, schedules: Iterable[RateSchedule]
) -> tuple[RateSchedule, ...]:
    """Return a configuration's own schedule and others after it; the later ones count."""
    own = () if config.schedule is None else (config.schedule,)
    return (*own, *schedules)


def find_faults(config: DropoutConfig) -> list[str]:
    """Return every broken rule of a configuration, as one sentence each."""
    faults = _drops_faults(config.drops)
    faults += consistency_faults(config.consistency)
    faults += _layer_faults(config.layers)
    faults += [
        f"{name} must be True or False, got {getattr(config, name)!r}"
        for name in ("keep_model_dropout", "share_heads", "keep_first")
        if not isinstance(getattr(config, name), bool)
    ]
    for name in ("hidden_modules", "attention_modules"):
        if (expression := getattr(config, name)) is not None:
            faults += _expression_faults(name, expression)
    schedule: object = config.schedule
    if not isinstance(schedule, RateSchedule | None):
        faults.append(f"schedule must be a RateSchedule or None, got {schedule!r}")
    return faults + _kinds_faults(config.attention)


def rate_faults(rate: object, where: str) -> list[str]:
    """Return what is wrong with a dropout rate, in a list of one sentence or none."""
    if is_number(rate) and 0 <= rate < 1:
        return []
    return [f"{where} must be in [0, 1), got {rate!r}; 0.1 drops a tenth of the units"]


def _drops_faults(drops: object) -> list[str]:
    if not isinstance(drops, tuple):
        return [f"drops must be a list of drops, got {drops!r}"]
    faults: list[str] = []
    for index, drop in enumerate(drops):
        if isinstance(drop, Drop):
            faults += _drop_faults(drop, f"drops[{index}]")
        else:
            faults.append(f"drops[{index}] must be a Drop, got {drop!r}")
    named = [drop.position for drop in drops if isinstance(drop, Drop)]
    positions = [position for position in named if isinstance(position, str)]
    return faults + [
        f"drops has {position!r} {positions.count(position)} times; give each position once"
        for position in POSITIONS
        if positions.count(position) > 1
    ]


def _drop_faults(drop: Drop, where: str) -> list[str]:
    faults = rate_faults(drop.rate, f"{where}.rate")
    tables = {"position": tuple(POSITIONS), "pattern": tuple(PATTERNS), "rescale": RESCALES}
    if drop.rescale is None:
        del tables["rescale"]
    unknown = [name for name in tables if not is_one_of(getattr(drop, name), tables[name])]
    faults += [not_one_of(f"{where}.{name}", getattr(drop, name), tables[name]) for name in unknown]
    if "position" in unknown:
        return faults
    position = POSITIONS[drop.position]
    if "pattern" not in unknown and drop.pattern in position.refused:
        fitting = ", ".join(name for name in PATTERNS if name not in position.refused)
        faults.append(
            f"{where}: pattern {drop.pattern!r} means nothing at position {drop.position!r}:"
            f" {position.refused[drop.pattern]}; use {fitting}"
        )
    if "rescale" not in unknown and drop.rescale not in (*position.rescales, None):
        faults.append(
            f"{where}: rescale {drop.rescale!r} does not fit position {drop.position!r};"
            f" use {', '.join(position.rescales)}"
        )
    return faults


def _layer_faults(layers: object) -> list[str]:
    if layers is None:
        return []
    if not isinstance(layers, tuple):
        return [f"layers must be a list of indices or None, got {layers!r}"]
    faults = [
        f"layers must hold whole numbers ≥ 0, got {layer!r}"
        for layer in layers
        if not is_count(layer) or layer < 0
    ]
    if not layers:
        faults.append("layers must name at least one layer, got (); use None for all")
    whole = [layer for layer in layers if is_count(layer)]
    if len(set(whole)) < len(whole):
        faults.append(f"layers must not repeat an index, got {layers!r}")
    return faults


def _kinds_faults(kinds: object) -> list[str]:
    if not isinstance(kinds, tuple) or not kinds:
        return [
            f"attention must be a list of {', '.join(ATTENTION_KINDS)}, or of one of them,"
            f" got {kinds!r}"
        ]
    return [
        not_one_of("attention", kind, ATTENTION_KINDS)
        for kind in kinds
        if not is_one_of(kind, ATTENTION_KINDS)
    ]


def _expression_faults(name: str, expression: object) -> list[str]:
    try:
        if isinstance(expression, str):
            re.compile(expression)
            return []
        reason = "not text"
    except re.error as error:
        reason = str(error)
    return [f"{name} must be a regular expression, got {expression!r} ({reason})"]


def _read_drop(values: object, where: str, faults: list[str]) -> object:
    """Build a drop; what is missing is added to ``faults`` and filled in, to find what else is."""
    if not isinstance(values, Mapping):
        return values
    faults += _unknown_keys(values, Drop, f"{where}.")
    fields = {"position": "hidden", "pattern": "element", "rate": 0.0}
    faults += [f"{where} needs {name!r}; add it" for name in fields if name not in values]
    return Drop(**{**fields, **_known(values, Drop)})


def _read_schedule(values: Mapping[str, Any], faults: list[str]) -> RateSchedule | None:
    faults += _unknown_keys(values, RateSchedule, "schedule.")
    try:
        return RateSchedule(**_known(values, RateSchedule))
    except ConfigError as error:
        faults += error.faults
        return None


def _known(values: Mapping[str, Any], kind: type) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(kind)]
    return {key: value for key, value in values.items() if key in names}


def _unknown_keys(values: Mapping[str, Any], kind: type, where: str) -> list[str]:
    names = [field.name for field in dataclasses.fields(kind)]
    return [not_one_of(f"{where or 'a '}key", key, names) for key in values if key not in names]
