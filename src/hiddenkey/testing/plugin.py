"""A fixture for pytest; ``pytest_plugins = "hiddenkey.testing.plugin"`` in a conftest loads it."""

from __future__ import annotations

import pytest

from hiddenkey.testing.conformance import Conformance


@pytest.fixture
def conformance() -> Conformance:
    """Examine a model, pattern, position or attention path of one's own."""
    return Conformance()
