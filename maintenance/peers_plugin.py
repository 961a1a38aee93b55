"""A plugin of pytest that writes what came of each test, and attaches to every model if asked to.

    python -m pytest -p peers_plugin --outcomes FILE [--attached]

With ``--attached``, each model of transformers that a test puts into training or evaluation gets a
configuration whose rates are all 0. It has to behave as it would without. FILE has one JSON object
a line: what is there counts when the tests are stopped.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    parser.addoption("--outcomes", metavar="FILE", help="write what came of each test to FILE")
    parser.addoption("--attached", action="store_true", help="attach to every model at rate 0")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to write, and to attach."""
    if config.getoption("--outcomes"):
        counts = attach_to_models() if config.getoption("--attached") else Counter()
        config.pluginmanager.register(Outcomes(config.getoption("--outcomes"), counts), "outcomes")


class Outcomes:
    """Writes a line for each test: passed, failed or skipped.

    Args:
        file: gets the lines.
        counts: how many models were attached to or refused since the tests began.
    """

    def __init__(self, file: str, counts: Counter[str]) -> None:
        self._file, self._counts = Path(file), counts
        self._outcome = "passed"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the worst of a test's setup, call, subtests and teardown."""
        whole = type(report) is pytest.TestReport  # a test passes though a subtest was skipped
        if report.failed or (report.skipped and whole and self._outcome == "passed"):
            self._outcome = report.outcome
        if report.when == "teardown":
            self._write({"test": report.nodeid, "outcome": self._outcome, **self._counts})
            self._outcome = "passed"

    def _write(self, line: dict[str, Any]) -> None:
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")


def attach_to_models() -> Counter[str]:
    """Attach to each model that is put into training or evaluation; return the counts."""
    from transformers import PreTrainedModel

    import hiddenkey
    from hiddenkey.attachment.attachment import attachment_of

    drops = [("attention_logits", "column"), ("hidden", "element")]
    silent = hiddenkey.DropoutConfig(
        tuple(hiddenkey.Drop(position, pattern, 0.0) for position, pattern in drops),
        keep_model_dropout=True,
    )
    counts: Counter[str] = Counter(attached=0, refused=0)
    own, inside = PreTrainedModel.train, []

    def train(self: Any, mode: bool = True) -> Any:
        inside.append(self)  # a model inside of another is put into its mode by that one
        try:
            model = own(self, mode)
        finally:
            inside.pop()
        if not inside and attachment_of(self) is None:
            try:
                hiddenkey.attach(self, silent)
                counts["attached"] += 1
            except (hiddenkey.AttachError, hiddenkey.ConfigError):
                counts["refused"] += 1
        return model

    PreTrainedModel.train = train
    return counts
