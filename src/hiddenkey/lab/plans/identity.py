"""What makes two runs the same: the whole configuration, the data and the versions that matter."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import version
from typing import Any, Final, Literal

from hiddenkey.lab.run.labels import label as label
from hiddenkey.lab.run.options import TrainOptions

PATHS: Final = ("data", "train_file", "eval_file")
"""Where the data lies, which may differ between machines; its fingerprint stands for it."""

VARIED: Final = ("model", "method", "rate", "rates", "rank", "consistency_weight", "seed")
"""What a plan varies from run to run of a task."""

RUNS_SINCE: Final = "0.1.0"
"""The first version of this library that trains as this one does: runs since then count as equal.

A release that changes what some settings compute raises it, and comparisons begin anew then.
"""

LATER: Final = (
    "validation", "keep", "quantize", "resample", "consistency_momentum", "consistency_top",
    "inference", "average_part", "ema_decay", "temperature", "choice_share",
    "neftune_alpha", "mixup_alpha", "sam_rho",
)  # fmt: skip
"""Settings that runs of version 0.1.0 did not have; at their defaults they change no identity."""

_PACKAGES: Final = ("torch", "transformers", "peft")

Stage = Literal["compare", "search"]
Budget = Literal["steps", "time"]


@dataclass(frozen=True)
class Run:
    """One training run of a comparison.

    Attributes:
        options: its settings; the run folder is not among them.
        fingerprint: hash of its examples.
        stage: whether it is compared or only helps to choose settings.
        budget: whether its steps are those of all methods or cut to the baseline's time.
    """

    options: TrainOptions
    fingerprint: str
    stage: Stage = "compare"
    budget: Budget = "steps"

    @property
    def name(self) -> str:
        """What a person calls it."""
        more = {"compare": "", "search": ", search"}[self.stage]
        return label(self.options) + more + (", time-matched" if self.budget == "time" else "")

    @cached_property
    def id(self) -> str:
        """The run's identity, 16 hexadecimal digits; other data, settings or versions change it."""
        settings, later = self.options.recorded(), changed(self.options)
        left_out = {*PATHS, *(name for name in LATER if name not in later)}
        return short_hash(
            {
                "options": {name: settings[name] for name in settings if name not in left_out},
                "stage": self.stage,
                "budget": self.budget,
                "data": self.fingerprint,
                "versions": versions(),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; settings at their defaults are left out."""
        return {
            "options": changed(self.options),
            "fingerprint": self.fingerprint,
            "stage": self.stage,
            "budget": self.budget,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Run:
        """Build a run from :meth:`to_dict`'s form."""
        return cls(**{**values, "options": options_from(values["options"])})


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """The versions that decide what a run computes."""
    return {"hiddenkey": RUNS_SINCE, **{name: version(name) for name in _PACKAGES}}


def short_hash(value: Any) -> str:
    """Hash plain JSON types to 16 hexadecimal digits; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def changed(options: TrainOptions) -> dict[str, Any]:
    """The recorded settings that are not at their defaults."""
    defaults = _defaults()
    return {name: value for name, value in options.recorded().items() if value != defaults[name]}


@lru_cache(maxsize=1)
def _defaults() -> dict[str, Any]:
    return TrainOptions().recorded()


def options_from(values: Mapping[str, Any]) -> TrainOptions:
    """Build options from :func:`changed`'s form."""
    names = {field.name for field in dataclasses.fields(TrainOptions)}
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in names
    }
    return TrainOptions(**given)
