"""From the options of a run to the dropout configuration that it trains with."""

from __future__ import annotations

import dataclasses

import hiddenkey
from hiddenkey import ConfigError, DropoutConfig, RateSchedule
from hiddenkey.lab.options import TrainOptions


def dropout_config(options: TrainOptions) -> DropoutConfig:
    """Build the configuration of the method with the options' changes.

    Raises:
        ConfigError: with the faults of the method, its rates, its loss and the layers together.
    """
    base = hiddenkey.method(options.method)
    faults: list[str] = []
    config = base
    try:
        config = hiddenkey.method(options.method, rate=options.rate, rates=options.rates)
    except ConfigError as error:
        faults += error.faults
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
    if faults:
        raise ConfigError(faults)
    return config


def rate_schedules(options: TrainOptions) -> tuple[RateSchedule, ...]:
    """Return the schedule of the rates, or none where they stay as they are."""
    schedule = RateSchedule(
        warmup=float(options.rate_warmup), decay=options.rate_decay, depth=options.rate_depth
    )
    return () if schedule == RateSchedule(warmup=0.0) else (schedule,)


def _consistency(options: TrainOptions, base: DropoutConfig) -> hiddenkey.Consistency | None:
    changes = {
        name: getattr(options, f"consistency_{name}")
        for name in ("weight", "every", "fraction", "backward", "precision")
        if getattr(options, f"consistency_{name}") is not None
    }
    if base.consistency is None and changes:
        names = ", ".join(f"consistency_{name}" for name in changes)
        raise ConfigError(
            f"method {options.method!r} has no consistency loss, got {names}; leave it out or use"
            " a method that has one, such as 'hiddenkey'"
        )
    return None if base.consistency is None else dataclasses.replace(base.consistency, **changes)
