"""What shall be attached inside of a command, and the environment that says so."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hiddenkey.errors import ConfigError, is_one_of, not_one_of

if TYPE_CHECKING:
    from hiddenkey.framework.config import DropoutConfig

VARIABLE: Final = "HIDDENKEY_LAUNCH"
"""The environment variable with the settings; the hook reads it too."""

KERNELS: Final = ("auto", "reference", "fused")
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
    """

    method: str
    rate: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    consistency_weight: float | None = None
    consistency_every: int | None = None
    layers: tuple[int, ...] | None = None
    keep_model_dropout: bool = False
    kernel: str = "auto"

    def config(self) -> DropoutConfig:
        """Return the configuration that the settings mean.

        Raises:
            ConfigError: with every fault.
        """
        from hiddenkey.framework.catalogue import method

        faults: list[str] = []
        if not is_one_of(self.kernel, KERNELS):
            faults.append(not_one_of("kernel", self.kernel, KERNELS))
        try:
            found = method(self.method, self.rate, rates=self.rates)
        except ConfigError as error:
            raise ConfigError([*error.faults, *faults]) from None
        given: dict[str, Any] = {"weight": self.consistency_weight, "every": self.consistency_every}
        changes = {name: value for name, value in given.items() if value is not None}
        loss = found.consistency
        if changes and loss is None:
            faults += [
                f"method {self.method!r} has no consistency loss, got consistency_{name}={value!r};"
                " leave it out, or choose a method such as 'hiddenkey'"
                for name, value in changes.items()
            ]
        elif loss is not None:
            loss = dataclasses.replace(loss, **changes)
        try:
            config = dataclasses.replace(
                found,
                consistency=loss,
                layers=None if self.layers is None else tuple(self.layers),
                keep_model_dropout=self.keep_model_dropout,
            )
        except ConfigError as error:
            faults += error.faults
        if faults:
            raise ConfigError(faults)
        return config


def launch_environment(settings: LaunchSettings, record: Path) -> dict[str, str]:
    """Return the variables to add to ``os.environ`` for a command.

    Args:
        settings: what to attach to the model that its first Trainer trains.
        record: folder for what came of it; see :mod:`hiddenkey.launch.record`. It is made.

    Raises:
        ConfigError: with every fault of the settings.
    """
    settings.config()
    record = Path(record).resolve()
    record.mkdir(parents=True, exist_ok=True)
    given = {**dataclasses.asdict(settings), "rates": dict(settings.rates)}
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
