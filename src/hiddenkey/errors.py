"""The errors that this library raises on purpose."""

from collections.abc import Sequence


class ConfigError(ValueError):
    """A setting breaks a rule. All faults of one configuration are reported together.

    Attributes:
        faults: one sentence per fault: the rule, the value received, the next step.
    """

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = (faults,) if isinstance(faults, str) else tuple(dict.fromkeys(faults))
        super().__init__("\n".join(self.faults))


class VersionWarning(UserWarning):
    """A library has a version that this one was not tried with."""


class AttachError(RuntimeError):
    """A model cannot take the configuration: something it needs was not found or is not allowed."""


class ConsistencyError(RuntimeError):
    """A configured consistency loss could not be part of a training step."""
