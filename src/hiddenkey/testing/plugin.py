"""A fixture for pytest; ``pytest_plugins = "hiddenkey.testing.plugin"`` in a conftest loads it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import pytest

from hiddenkey import testing

_Given = ParamSpec("_Given")


def _asserted(examine: Callable[_Given, testing.Report]) -> Callable[_Given, testing.Report]:
    @wraps(examine)
    def check(*args: _Given.args, **options: _Given.kwargs) -> testing.Report:
        report = examine(*args, **options)
        if not report.passed:
            raise AssertionError(str(report))
        return report

    return check


class Conformance:
    """The ``examine_*`` functions as assertions, whose errors say what was found."""

    model = staticmethod(_asserted(testing.examine_model))
    pattern = staticmethod(_asserted(testing.examine_pattern))
    position = staticmethod(_asserted(testing.examine_position))
    attention = staticmethod(_asserted(testing.examine_attention))


@pytest.fixture
def conformance() -> Conformance:
    """Examine a model, pattern, position or attention path of one's own."""
    return Conformance()
