"""What the sweep found out about one type, and the file that keeps all of it."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from model_tables.document import installed, today
from model_tables.model_types import TEXT_TASKS

Verdict = Literal["pass", "refused", "partial", "fails", "cannot be built", "crashed", "timed out"]


@dataclass(frozen=True)
class Row:
    """One type on one task.

    Attributes:
        type: transformers' name of the architecture.
        task: what it was built for.
        verdict: ``pass``, or what kept it from passing.
        reason: why, in words; empty where it passes and nothing is to be said.
        model: name of the model class; empty where it could not be built.
        layers: number of layers of the tiny model.
        attention: how many layers' attention each path serves, such as ``{"fused": 2}``.
        attention_layers: in how many layers attention drops act.
        hidden_layers: in how many layers hidden drops act.
        feed_forward: names of the modules behind which hidden drops act, ``*`` for numbers.
        norm: where that is within the block.
        gaps: layers in which a position does not exist, with the reason.
        parameters: of the tiny model, without adapter.
        adapted: number of linear layers with LoRA; 0 where the model is trained as a whole.
        seconds: how long it took.
    """

    type: str
    task: str
    verdict: Verdict
    reason: str = ""
    model: str = ""
    layers: int = 0
    attention: dict[str, int] = field(default_factory=dict)
    attention_layers: int = 0
    hidden_layers: int = 0
    feed_forward: tuple[str, ...] = ()
    norm: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    parameters: int = 0
    adapted: int = 0
    seconds: float = 0.0

    @property
    def is_text(self) -> bool:
        """Whether it counts among the text types."""
        return self.task in TEXT_TASKS

    @property
    def was_built(self) -> bool:
        """Whether there is a tiny model of it."""
        return self.verdict != "cannot be built"


@dataclass(frozen=True)
class Record:
    """One sweep.

    Attributes:
        command: what made it.
        date: when it ended, in UTC.
        versions: of Python and the packages that it depends on.
        rows: by type and task, in alphabetical order.
    """

    command: str
    date: str
    versions: dict[str, str]
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, rows: Iterable[Row], command: str) -> Record:
        """Make a record of rows that a command measured now, here."""
        import hiddenkey

        versions = {"hiddenkey": hiddenkey.__version__}
        versions |= installed("torch", "transformers", "peft")
        in_order = sorted(rows, key=lambda row: (row.type, row.task))
        return cls(command, today(), versions, tuple(in_order))

    def counts(self) -> dict[str, int]:
        """Return the number of rows with each verdict, the most frequent first."""
        return dict(Counter(row.verdict for row in self.rows).most_common())

    def text_share(self) -> tuple[int, int]:
        """Return how many text types pass, and how many of them could be built."""
        built = [row for row in self.rows if row.is_text and row.was_built]
        return sum(row.verdict == "pass" for row in built), len(built)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON types."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain
