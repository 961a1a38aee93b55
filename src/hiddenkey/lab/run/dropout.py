"""From the options of a run to the dropout configuration that it trains with."""

from __future__ import annotations

import dataclasses
from typing import Final

import hiddenkey
from hiddenkey import ConfigError, DropoutConfig, RateSchedule
from hiddenkey.lab.run.options import TrainOptions

_LORA: Final = ("lora", "dora")


def dropout_config(options: TrainOptions) -> DropoutConfig:
    """Build the configuration of the method with the options' changes.

    Raises:
        ConfigError: with the faults of the method, its rates, its loss and the layers together.
    """
    base = hiddenkey.method(options.method)
    faults: list[str] = []
    config = base
    try:
        config = _with_others(options, base)
    except ConfigError as error:
        faults += error.faults
    if any(drop.position == "update" for drop in config.drops) and options.adapter not in _LORA:
        faults.append(
            f"method {' + '.join((options.method, *options.also))} drops the update of LoRA or"
            f" DoRA, got adapter {options.adapter!r}, which has none; use --adapter lora or another"
            " method"
        )
    try:
        config = dataclasses.replace(
            config,
            consistency=_consistency(options, base),
            layers=options.layers,
            share_heads=options.share_heads,
            keep_first=options.keep_first,
            keep_model_dropout=options.keep_model_dropout,
        )
    except ConfigError as error:
        faults += error.faults
    if options.mixup_alpha and config.consistency is not None:
        faults.append(
            f"mixup_alpha mixes each example with another one, and method {options.method!r} adds a"
            " loss on the example itself; leave one of them out"
        )
    if options.sam_rho and config.consistency is not None:
        faults.append(
            f"sam_rho takes each gradient twice, and method {options.method!r} adds a loss that"
            " counts passes; leave one of them out"
        )
    if faults:
        raise ConfigError(faults)
    return config


def _with_others(options: TrainOptions, base: DropoutConfig) -> DropoutConfig:
    """The method at its rates, and the drops of the methods that are added to it."""
    others = [(name, hiddenkey.method(name)) for name in options.also]
    added = {drop.position for _, other in others for drop in other.drops}
    mine = {name: rate for name, rate in options.rates.items() if name not in added}
    config = hiddenkey.method(options.method, rate=options.rate, rates=mine)
    faults = [
        f"also must name methods that drop elsewhere than {options.method!r}, got {name!r}, which"
        f" {wrong}; choose another"
        for name, other in others
        if (wrong := _what_is_wrong(other, base))
    ]
    if faults:
        raise ConfigError(faults)
    drops, schedule = list(config.drops), config.schedule
    for name, other in others:
        schedule = schedule or other.schedule
        positions = {drop.position for drop in other.drops}
        rates = {place: rate for place, rate in options.rates.items() if place in positions}
        drops += hiddenkey.method(name, rate=options.rate, rates=rates).drops
    return dataclasses.replace(config, drops=tuple(drops), schedule=schedule)


def _what_is_wrong(other: DropoutConfig, base: DropoutConfig) -> str:
    if other.consistency is not None:
        return "brings a consistency loss"
    if not other.drops:
        return "drops nothing"
    own = {drop.position for drop in base.drops}
    shared = [drop.position for drop in other.drops if drop.position in own]
    return f"drops at {shared[0]} as well" if shared else ""


def rate_schedules(options: TrainOptions) -> tuple[RateSchedule, ...]:
    """Return the options' schedule of the rates, or none where they leave it to the method."""
    schedule = RateSchedule(
        warmup=float(options.rate_warmup), decay=options.rate_decay, depth=options.rate_depth
    )
    return () if schedule == RateSchedule(warmup=0.0) else (schedule,)


def _consistency(options: TrainOptions, base: DropoutConfig) -> hiddenkey.Consistency | None:
    given = {
        name: getattr(options, f"consistency_{name}")
        for name in ("weight", "every", "fraction", "backward", "precision", "momentum", "top")
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if base.consistency is None and changes:
        names = ", ".join(f"consistency_{name}" for name in changes)
        raise ConfigError(
            f"method {options.method!r} has no consistency loss, got {names}; leave it out or use"
            " a method that has one, such as 'hiddenkey'"
        )
    return None if base.consistency is None else dataclasses.replace(base.consistency, **changes)
