"""Which columns of a table hold the prediction, the truth and the identifier of a row.

A name decides only where no other column can be meant. Otherwise the user is asked: a truth that is
taken for the prediction scores as if everything were right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from hiddenkey.lab.tasks.files import FileFaults
from hiddenkey.lab.tasks.tables import Row

Role = Literal["prediction", "truth", "unclear", "about"]
SOURCES: Final = (
    *("mr", "source", "prompt", "input", "context", "instruction", "question", "query", "system"),
    *("history", "messages"),
)
IDENTIFIERS: Final = (
    *("id", "idx", "index", "example_id", "sample_id", "instance_id", "guid", "uid", "uuid", "qid"),
    *("eid", "pair_id", "row_id", "row", "row_number", "line", "line_number"),
    *("index_level_0", "unnamed_0", ""),  # a data frame's index
)
_PREDICTED: Final = re.compile(
    "pred|preds|predict(s|ed|ion|ions)?|hyps?|hypothes[ei]s|yhat|generat.*"
)
_TRUE: Final = re.compile(
    "gold|golden|truth|true|refs?|references?|targets?|expected|correct|actual"
)
_BESIDE: Final = re.compile(
    "id|category|seed|model|split|by|at|time|(log)?probs?|probabilit.*|logits?|confidence|length"
    "|tokens"
)
_WRITTEN: Final = ("output", "outputs", "response", "completion", "answer", "model_output")
_LABELS: Final = ("label", "labels")
_GIVEN: Final = (*_LABELS, "text")


@dataclass(frozen=True)
class Choice:
    """Columns that a user names, or that were taken; nothing for a file without columns."""

    prediction: str | None = None
    references: tuple[str, ...] = ()
    identifier: str | None = None


def plain(name: str) -> str:
    """``pair_id`` for ``pairID`` and for ``Pair ID``."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return "_".join(re.findall(r"[^\W\d_]+|\d+", spaced.lower()))


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The columns that any row has, in their order."""
    return list(dict.fromkeys(name for row in rows for name in row.values))


def role(name: str, about: Collection[str]) -> Role:
    """What a column's name says; ``about`` holds names that are neither prediction nor truth."""
    found = plain(name).split("_")
    if plain(name) in (*about, *IDENTIFIERS) or any(map(_BESIDE.fullmatch, found)):
        return "about"
    predicted, true = (any(map(kind.fullmatch, found)) for kind in (_PREDICTED, _TRUE))
    if predicted == true:
        return "unclear"
    return "prediction" if predicted else "truth"


def truths(present: Sequence[str], about: Collection[str], taken: str) -> list[str]:
    """Columns beside the prediction that hold the truth, or what was copied from it."""
    others = [name for name in present if name != taken]
    return [name for name in others if role(name, about) == "truth" or plain(name) in _LABELS]


def prediction_column(
    present: Sequence[str], about: Collection[str], given: str | None, faults: FileFaults
) -> str | None:
    """Return the column of predictions, or record that none or several could be it."""
    if given is not None:
        return _named(present, given, "prediction", faults)
    predicted, unclear, true = _by_role(present, about)
    for possible in (predicted, unclear, [name for name in true if plain(name) == "ref"]):
        written = [name for name in possible if plain(name) in _WRITTEN]
        rest = {plain(name) for name in possible} - {*_WRITTEN}
        if len(possible) == 1 or (len(written) == 1 and rest <= {*_GIVEN}):
            return (written or possible)[0]
        if possible:
            break
    _ask(possible, present, "prediction", faults)
    return None


def reference_columns(
    present: Sequence[str], about: Collection[str], given: Sequence[str], faults: FileFaults
) -> tuple[str, ...]:
    """Return the column of references, or several that only a number tells apart."""
    if given:
        named = [_named(present, name, "reference", faults) for name in given]
        return tuple(name for name in named if name is not None)
    _, unclear, true = _by_role(present, about)
    possible = true or unclear
    series = {re.sub(r"_?\d+$", "", plain(name)) for name in possible}
    if len(possible) == 1 or (len(series) == 1 and sum(not n[-1:].isdigit() for n in possible) < 2):
        return tuple(possible)
    _ask(possible, present, "reference", faults)
    return ()


def as_text(value: object) -> str:
    """A cell as it is written in a file of text."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def with_text(rows: Sequence[Row]) -> list[Row]:
    """The rows with their numbers and truth values as text."""
    return [
        Row(row.line, {n: as_text(v) if isinstance(v, int | float) else v for n, v in cells})
        for row in rows
        if (cells := row.values.items())
    ]


def identifier(value: object) -> str:
    """An identifier as text, the same for 1, 1.0, ``"1"`` and ``"1.0"``."""
    return re.sub(r"^(-?\d+)\.0$", r"\1", as_text(value).strip())


def match(theirs: Sequence[str | None], ours: Sequence[str], faults: FileFaults) -> list[int]:
    """Return for each reference the index of its output, or record that the two do not match.

    Where the references have no identifiers, those of the outputs are row numbers.
    """
    rows = [[str(start + index) for index in range(len(ours))] for start in (0, 1)]
    known = [name for name in theirs if name is not None]
    lacking = len(known) < len(theirs)
    where = {name: index for index, name in enumerate(ours)}
    for expected in rows if lacking else [known]:
        if sorted(expected) == sorted(ours) and len(where) == len(ours):
            return [where[name] for name in expected]
    shuffled = known not in rows and sorted(known) in map(sorted, rows)
    if not lacking and list(ours) in rows and not shuffled:
        return [*range(len(ours))]  # plain row numbers, beside identifiers of another kind
    wanted = "row numbers from 0 or 1" if lacking else "the references' identifiers"
    usual = {*(rows[1] if lacking else known)}
    strange = [n for i, n in enumerate(ours) if where[n] != i or n not in usual]
    faults.add(
        f"must have {wanted}, each once, got {', '.join(map(repr, (strange or ours)[:3]))}; correct"
        " them, or delete the column if the rows are in the references' order"
    )
    return [*range(len(ours))]


def _by_role(present: Sequence[str], about: Collection[str]) -> list[list[str]]:
    roles = {name: role(name, about) for name in present}
    return [[n for n in present if roles[n] == r] for r in ("prediction", "unclear", "truth")]


def _named(present: Sequence[str], given: str, option: str, faults: FileFaults) -> str | None:
    found = [name for name in present if name == given] or [
        name for name in present if name.strip().lower() == given.strip().lower()
    ]
    if len(found) == 1:
        return found[0]
    _ask(found, present, option, faults)
    return None


def _ask(possible: Sequence[str], present: Sequence[str], what: str, faults: FileFaults) -> None:
    names = ", ".join(map(repr, possible or present)) or "no columns"
    why = f"{names} each could be" if possible else f"no column is known for it among {names}"
    faults.add(f"must show which column holds the {what}, {why}; give --{what}-column")
