"""What the callbacks of all trainers share: their arguments, and a process's random numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from hiddenkey.errors import ConfigError
from hiddenkey.framework.catalogue import method
from hiddenkey.framework.config import DropoutConfig
from hiddenkey.step.parallel import has_several_processes


def configured(
    config: str | DropoutConfig,
    rate: float | None,
    rates: Mapping[str, float] | None,
    keep_model_dropout: bool | None,
) -> DropoutConfig:
    """Return the configuration that a callback's arguments mean.

    Raises:
        ConfigError: if they are wrong, or rates are given beside a configuration.
    """
    if isinstance(config, str):
        config = method(config, rate, rates=rates)
    elif not isinstance(config, DropoutConfig):
        raise ConfigError(f"config must be a method's name or a DropoutConfig, got {config!r}")
    elif rate is not None or rates:
        raise ConfigError(
            "rate and rates belong to a named method, got them with a DropoutConfig; set the rates"
            " of its drops"
        )
    if keep_model_dropout is None:
        return config
    return dataclasses.replace(config, keep_model_dropout=keep_model_dropout)


def own_rank() -> int | None:
    """Return the place of a single process; several find theirs by themselves.

    With a place of its own, a process takes one random number for each pass, whatever is drawn.
    So the order of the batches, drawn from the same generator, does not depend on the method.
    """
    return None if has_several_processes() else 0
