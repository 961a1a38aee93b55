"""Checks for somebody's own model, position, pattern or attention path.

Each ``examine_*`` function is plain Python and returns a report; none needs pytest. The plugin
``hiddenkey.testing.plugin`` gives them to pytest as one fixture, ``conformance``::

    # conftest.py
    pytest_plugins = "hiddenkey.testing.plugin"

    # test_mine.py
    def test_my_model(conformance):
        conformance.model(MyModel(), batch, config="hiddenkey")
"""

from hiddenkey.testing.attention import examine_attention
from hiddenkey.testing.conformance import Conformance
from hiddenkey.testing.examination import padded_batches
from hiddenkey.testing.findings import Finding, Report
from hiddenkey.testing.models import examine_model
from hiddenkey.testing.patterns import examine_pattern
from hiddenkey.testing.positions import examine_position

__all__ = [
    "Conformance",
    "Finding",
    "Report",
    "examine_attention",
    "examine_model",
    "examine_pattern",
    "examine_position",
    "padded_batches",
]
