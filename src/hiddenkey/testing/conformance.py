"""The examinations as assertions, for tests."""

from __future__ import annotations

from typing import Any

from hiddenkey.testing.attention import examine_attention
from hiddenkey.testing.findings import Report
from hiddenkey.testing.models import examine_model
from hiddenkey.testing.patterns import examine_pattern
from hiddenkey.testing.positions import examine_position


class Conformance:
    """Examines one's own parts; each method raises ``AssertionError`` with what was found."""

    def model(self, *args: Any, **options: Any) -> Report:
        """Assert what :func:`hiddenkey.testing.examine_model` checks; same arguments."""
        return _passed(examine_model(*args, **options))

    def pattern(self, *args: Any, **options: Any) -> Report:
        """Assert what :func:`hiddenkey.testing.examine_pattern` checks; same arguments."""
        return _passed(examine_pattern(*args, **options))

    def position(self, *args: Any, **options: Any) -> Report:
        """Assert what :func:`hiddenkey.testing.examine_position` checks; same arguments."""
        return _passed(examine_position(*args, **options))

    def attention(self, *args: Any, **options: Any) -> Report:
        """Assert what :func:`hiddenkey.testing.examine_attention` checks; same arguments."""
        return _passed(examine_attention(*args, **options))


def _passed(report: Report) -> Report:
    if not report.passed:
        raise AssertionError(str(report))
    return report
