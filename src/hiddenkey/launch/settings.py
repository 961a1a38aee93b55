"""What shall be attached inside of a command, and the environment that says so."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hiddenkey.errors import ConfigError

if TYPE_CHECKING:
    from hiddenkey.framework.config import DropoutConfig
    from hiddenkey.framework.inference import Inference

VARIABLE: Final = "HIDDENKEY_LAUNCH"
"""The environment variable with the settings; the hook reads it too."""

_HOOK: Final = Path(__file__).parent / "hook"


@dataclass(frozen=True)
class LaunchSettings:
    """A method and how it is attached, in JSON's types.

    Attributes:
        method: name of a method.
        rate: dropout rate of all its drops; ``None`` keeps its own.
        rates: rates by position; they win over ``rate``.
        consistency_weight: weight of its consistency loss; ``None`` keeps its own.
        consistency_every: run that loss in every so many forward passes; ``None`` keeps its own.
        layers: indices of the layers that drop; ``None`` for all.
        keep_model_dropout: leave the model's own dropout on.
        kernel: see :func:`hiddenkey.attach`.
        inference: which weights are evaluated, and left in the model at the end.
        average_part: of the training, for ``average``.
        ema_decay: of a step, for ``ema``.
        step_cost: measure what a step costs; see :func:`hiddenkey.integrations.trainer.watch`.
    """

    method: str
    rate: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    consistency_weight: float | None = None
    consistency_every: int | None = None
    layers: tuple[int, ...] | None = None
    keep_model_dropout: bool = False
    kernel: str = "auto"
    inference: str = "last"
    average_part: float = 0.5
    ema_decay: float = 0.99
    step_cost: bool = False

    def used(self) -> Inference:
        """Return which weights are used.

        Raises:
            ConfigError: with every fault.
        """
        from hiddenkey.framework.inference import Inference

        return Inference(self.inference, self.average_part, self.ema_decay)

    def faults(self) -> list[str]:
        """Return every broken rule of the method and of the weights that are used."""
        found: list[str] = []
        for check in (self.config, self.used):
            try:
                check()
            except ConfigError as error:
                found += error.faults
        return found

    def config(self) -> DropoutConfig:
        """Return the configuration that the settings mean.

        Raises:
            ConfigError: with every fault.
        """
        from hiddenkey.integrations.configured import named_config

        left_out = ("method", "inference", "average_part", "ema_decay", "step_cost")
        own = {name: value for name, value in vars(self).items() if name not in left_out}
        return named_config(self.method, **own)


def launch_environment(settings: LaunchSettings, record: Path) -> dict[str, str]:
    """Return the variables to add to ``os.environ`` for a command.

    Args:
        settings: what to attach to the model that its first Trainer trains.
        record: folder for what came of it; see :mod:`hiddenkey.launch.record`. It is made.

    Raises:
        ConfigError: with every fault of the settings.
    """
    if faults := settings.faults():
        raise ConfigError(faults)
    record = Path(record).resolve()
    record.mkdir(parents=True, exist_ok=True)
    given = {**vars(settings), "rates": dict(settings.rates)}
    text = json.dumps({"settings": given, "record": str(record)})
    before = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([str(_HOOK), *([before] if before else [])])
    return {VARIABLE: text, "PYTHONPATH": path}


def read_environment() -> tuple[LaunchSettings, Path]:
    """Return what :func:`launch_environment` wrote, in a process that it reached."""
    given: dict[str, Any] = json.loads(os.environ[VARIABLE])
    settings: dict[str, Any] = given["settings"]
    if settings["layers"] is not None:
        settings["layers"] = tuple(settings["layers"])
    return LaunchSettings(**settings), Path(given["record"])
