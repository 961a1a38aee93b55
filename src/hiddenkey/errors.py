"""The errors that this library raises on purpose, and what they say of a wrong name."""

import difflib
from collections.abc import Iterable, Sequence
from typing import TypeGuard

_LONGEST = 1200
"""Characters of one fault."""

DIVERGED = "the training diverged"
"""What the message of every :class:`DivergedError` says, and a record keeps."""


class ConfigError(ValueError):
    """A setting breaks a rule. All faults of one configuration are reported together.

    Attributes:
        faults: one sentence per fault: the rule, the value received, the next step.
    """

    def __init__(self, faults: str | Sequence[str]) -> None:
        listed = (faults,) if isinstance(faults, str) else dict.fromkeys(faults)
        self.faults = tuple(_readable(fault) for fault in listed)
        super().__init__("\n".join(self.faults))


def _readable(fault: str) -> str:
    """Cut the middle out of a sentence that quotes a long value; escape what cannot be printed."""
    if len(fault) > _LONGEST:
        fault = f"{fault[: _LONGEST * 2 // 3]} … {fault[-_LONGEST // 4 :]}"
    return fault.encode("utf-8", "backslashreplace").decode()


class VersionWarning(UserWarning):
    """A library has a version that this one was not tried with."""


class AttachError(RuntimeError):
    """A model cannot take the configuration: something it needs was not found or is not allowed."""


class ConsistencyError(RuntimeError):
    """A configured consistency loss could not be part of a training step."""


class DivergedError(RuntimeError):
    """A training run whose loss is no finite number any more: it has no result."""


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number, which a truth value is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_one_of(value: object, allowed: Iterable[str]) -> bool:
    """Whether a value of any type is one of these names."""
    return isinstance(value, str) and value in allowed


def not_one_of(what: str, value: object, allowed: Iterable[str], otherwise: str = "") -> str:
    """Say that ``value`` is none of ``allowed``, with the nearest one as the next step."""
    names = list(allowed)
    hint = suggestion(str(value), names) or otherwise
    return f"{what} must be one of {', '.join(names)}, got {value!r}{hint}"


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known name, or nothing."""
    near = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
