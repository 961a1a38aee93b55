"""The examinations as assertions, for tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from hiddenkey.testing.attention import examine_attention
from hiddenkey.testing.findings import Report
from hiddenkey.testing.models import examine_model
from hiddenkey.testing.patterns import examine_pattern
from hiddenkey.testing.positions import examine_position

_Given = ParamSpec("_Given")


def _asserted(examine: Callable[_Given, Report]) -> Callable[_Given, Report]:
    @wraps(examine)
    def check(*args: _Given.args, **options: _Given.kwargs) -> Report:
        report = examine(*args, **options)
        if not report.passed:
            raise AssertionError(str(report))
        return report

    return check


class Conformance:
    """Examines one's own parts: the ``examine_*`` functions, with ``AssertionError`` if one fails.

    Each takes the same arguments as its function, and the error says what was found.
    """

    model = staticmethod(_asserted(examine_model))
    pattern = staticmethod(_asserted(examine_pattern))
    position = staticmethod(_asserted(examine_position))
    attention = staticmethod(_asserted(examine_attention))
