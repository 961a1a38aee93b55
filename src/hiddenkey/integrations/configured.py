"""What the bridges to all trainers share: their settings, and a process's random numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from hiddenkey import log
from hiddenkey.attachment.attachment import Attachment, attach, attachment_of
from hiddenkey.attachment.model_dropout import OWN_DROPOUT
from hiddenkey.attachment.plan import KERNELS, Kernel
from hiddenkey.errors import AttachError, ConfigError, is_one_of, not_one_of
from hiddenkey.framework.catalogue import method
from hiddenkey.framework.config import DropoutConfig
from hiddenkey.step.added_loss import LanguageModelLoss
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


def named_config(
    name: str,
    rate: float | None = None,
    rates: Mapping[str, float] | None = None,
    *,
    consistency_weight: float | None = None,
    consistency_every: int | None = None,
    layers: Sequence[int] | None = None,
    keep_model_dropout: bool = False,
    kernel: str = "auto",
) -> DropoutConfig:
    """Return the configuration that plain settings mean, as flags and YAML files have them.

    Args:
        name: of a method.
        rate: dropout rate of all its drops; ``None`` keeps its own.
        rates: rates by position; they win over ``rate``.
        consistency_weight: weight of its consistency loss; ``None`` keeps its own.
        consistency_every: run that loss in every so many forward passes; ``None`` keeps its own.
        layers: indices of the layers that drop; ``None`` for all.
        keep_model_dropout: leave the model's own dropout on.
        kernel: only checked; see :func:`hiddenkey.attach`.

    Raises:
        ConfigError: with every fault.
    """
    faults = [] if is_one_of(kernel, KERNELS) else [not_one_of("kernel", kernel, KERNELS)]
    try:
        found = method(name, rate, rates=rates)
    except ConfigError as error:
        raise ConfigError([*error.faults, *faults]) from None
    given: dict[str, Any] = {"weight": consistency_weight, "every": consistency_every}
    changes = {key: value for key, value in given.items() if value is not None}
    loss = found.consistency
    if loss is None:
        faults += [
            f"method {name!r} has no consistency loss, got consistency_{key}={value!r};"
            " leave it out, or choose a method such as 'hiddenkey'"
            for key, value in changes.items()
        ]
    try:
        config = dataclasses.replace(
            found,
            consistency=None if loss is None else dataclasses.replace(loss, **changes),
            layers=None if layers is None else tuple(layers),
            keep_model_dropout=keep_model_dropout,
        )
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults)
    return config


def attach_and_say(
    model: nn.Module, config: DropoutConfig, kernel: Kernel, lm_loss: LanguageModelLoss
) -> Attachment:
    """Attach to the model of a trainer, and log each line of what was attached once a process.

    Raises:
        AttachError: if the model has an attachment already; else what :func:`attach` raises.
    """
    if attachment_of(model) is not None:
        raise AttachError(
            "the model that is trained has an attachment already; leave out either attach, with"
            " watch, or HiddenKeyCallback, and give the trainer one such callback alone"
        )
    log.known(OWN_DROPOUT)  # the last line says it
    rank = own_rank()
    attachment = attach(model, config, kernel=kernel, lm_loss=lm_loss, data_parallel_rank=rank)
    for line in attachment.summary():
        log.once(line, line)
    return attachment


def own_rank() -> int | None:
    """Return the place of a single process; several find theirs by themselves.

    With a place of its own, a process takes one random number for each pass, whatever is drawn.
    So the order of the batches, drawn from the same generator, does not depend on the method.
    """
    return None if has_several_processes() else 0
