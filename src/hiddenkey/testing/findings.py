"""What an examination found: one finding for each check, and the report that holds them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hiddenkey.errors import AttachError, ConfigError, ConsistencyError
from hiddenkey.framework.site import Site

Subject = TypeVar("Subject")
Checks = Mapping[str, Callable[[Subject], str]]
"""By name, what returns in words what it measured, or raises :class:`CheckError`."""

REFUSALS = (AttachError, ConfigError, ConsistencyError)


class CheckError(AssertionError):
    """A check did not hold; the message says what was found, where, and what the rule is."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: its name.
        passed: whether it held, or had nothing to look at (``detail`` says so).
        detail: what was measured, or what is wrong.
    """

    check: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}  {self.check}: {self.detail}"


@dataclass(frozen=True)
class Report:
    """The outcome of all checks of one subject.

    Attributes:
        subject: what was examined.
        findings: one for each check, in their order; empty where the model was refused.
        sites: where the configuration acts, for a model.
        gaps: layers and positions in which it cannot act, as the attachment names them.
        refusal: the library's reason for refusing the model, or ``None``.
    """

    subject: str
    findings: tuple[Finding, ...]
    sites: tuple[Site, ...] = ()
    gaps: tuple[Any, ...] = ()
    refusal: str | None = None

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The checks that did not hold."""
        return tuple(finding for finding in self.findings if not finding.passed)

    @property
    def passed(self) -> bool:
        """Whether the subject was not refused and every check held."""
        return self.refusal is None and not self.failures

    def __str__(self) -> str:
        if self.refusal is not None:
            return f"{self.subject}: refused: {self.refusal}"
        return "\n".join([f"{self.subject}:", *(f"  {finding}" for finding in self.findings)])


def run_checks(checks: Checks[Subject], subject: Subject) -> tuple[Finding, ...]:
    """Run checks of a subject one after the other; an error in one is that check's finding.

    Raises:
        AttachError, ConfigError, ConsistencyError: if the library refuses the subject only now.
    """
    return tuple(_find(name, check, subject) for name, check in checks.items())


def fail_if(faults: Sequence[str], *, shown: int = 4) -> None:
    """Raise one :class:`CheckError` with the first few of the faults, if there are any."""
    if faults:
        more = f"; and {len(faults) - shown} more" if len(faults) > shown else ""
        raise CheckError("; ".join(faults[:shown]) + more)


def spread(values: Sequence[float]) -> float:
    """Return how far the mean of 16 or more independent values may be from its expectation.

    A check runs for thousands of sites and must not cry wolf: seven of Student's t with 15 degrees
    of freedom are passed once in 230,000 times.
    """
    return 7.0 * statistics.stdev(values) / math.sqrt(len(values))


def spread_of_choices(rate: float, count: int) -> float:
    """Return the same for values that are 1 with a probability of ``rate``, and else 0."""
    return 7.0 * math.sqrt(rate * (1 - rate) / count)


def _find(name: str, check: Callable[[Subject], str], subject: Subject) -> Finding:
    try:
        return Finding(name, True, check(subject))
    except CheckError as failure:
        return Finding(name, False, str(failure))
    except REFUSALS:
        raise
    except Exception as error:  # whatever a stranger's code raises is what the check found
        return Finding(name, False, f"{type(error).__name__}: {error}")
