"""What docs/EXTENDING.md shows runs as it stands there."""

import inspect
import re
from pathlib import Path

import pytest

from hiddenkey.framework.patterns import PATTERNS
from hiddenkey.framework.positions import POSITIONS
from hiddenkey.testing import examine_model
from models import PAD, batch
from testing.own_models import OwnConfig, OwnModel, own_model

pytest_plugins = "hiddenkey.testing.plugin"

DOCUMENT = Path(__file__).parents[2] / "docs" / "EXTENDING.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")


@pytest.fixture
def shown(monkeypatch):
    """Everything that the document defines; the tables are put back."""
    monkeypatch.setitem(PATTERNS, "pairs", None)
    monkeypatch.setitem(POSITIONS, "first_dense", None)
    monkeypatch.setitem(POSITIONS, "activation", None)
    names = {"MyModel": OwnModel, "config": OwnConfig(pad_token_id=PAD), "batch": batch()}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(block, names)
    return names


TESTS = [
    "test_my_model",
    "test_my_pattern",
    "test_my_position",
    "test_my_inner_position",
    "test_my_attention",
]


@pytest.mark.parametrize("name", TESTS)
def test_the_tests_in_the_document_pass(name, shown, conformance):
    assert list(inspect.signature(shown[name]).parameters) == ["conformance"]
    shown[name](conformance)


def test_no_test_of_the_document_is_left_out(shown):
    assert [name for name in shown if name.startswith("test_")] == TESTS
    assert shown["pytest_plugins"] == "hiddenkey.testing.plugin"


def test_the_table_of_checks_is_complete():
    rows = re.findall(r"^\| ([a-z ]+) \|", TEXT, re.MULTILINE)
    report = examine_model(own_model(), batch())
    assert rows[1:] == [finding.check for finding in report.findings]
