"""Which columns of a table hold the prediction, the truth and the identifier of a row.

A name decides only where no other column can be meant. Otherwise the user is asked: a truth that is
taken for the prediction scores as if everything were right.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from hiddenkey.lab.tasks.files import FileFaults

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


@dataclass(frozen=True)
class Picked:
    """Columns that a user names, or that were taken; nothing for a file without columns."""

    prediction: str | None = None
    references: tuple[str, ...] = ()
    identifier: str | None = None


def plain(name: str) -> str:
    """``pair_id`` for ``pairID`` and for ``Pair ID``."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return "_".join(re.findall(r"[^\W\d_]+|\d+", spaced.lower()))


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
    kinds = _by_role(present, about)
    ref = [name for name in kinds["truth"] if plain(name) == "ref"]
    possible = kinds["prediction"] or kinds["unclear"] or ref
    written = [name for name in possible if plain(name) in _WRITTEN]
    if len(written) == 1 and {*map(plain, possible)} <= {*_WRITTEN, *_LABELS, "text"}:
        possible = written
    named = () if given is None else (given,)
    return next(iter(_taken(possible, len(possible) == 1, present, named, faults)), None)


def reference_columns(
    present: Sequence[str], about: Collection[str], given: Sequence[str], faults: FileFaults
) -> tuple[str, ...]:
    """Return the column of references, or several that differ by a number alone."""
    kinds = _by_role(present, about)
    possible = kinds["truth"] or kinds["unclear"]
    series = {re.sub(r"_?\d+$", "", plain(name)) for name in possible}
    unnumbered = sum(not name[-1:].isdigit() for name in possible)
    is_clear = len(possible) == 1 or (len(series) == 1 and unnumbered < 2)
    return _taken(possible, is_clear, present, given, faults, "reference")


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
    others = known in rows or not {*known} & {*ours}
    if list(ours) in rows and others and not lacking:
        return [*range(len(ours))]  # plain row numbers, beside identifiers of another kind
    wanted = "row numbers from 0 or 1" if lacking else "the references' identifiers"
    usual = {*(rows[1] if lacking else known)}
    strange = [n for i, n in enumerate(ours) if where[n] != i or n not in usual]
    faults.add(
        f"must have {wanted}, each once, got {', '.join(map(repr, (strange or ours)[:3]))}; correct"
        " them, or delete the column if the rows are in the references' order"
    )
    return [*range(len(ours))]


def _by_role(present: Sequence[str], about: Collection[str]) -> dict[Role, list[str]]:
    kinds: dict[Role, list[str]] = {"prediction": [], "truth": [], "unclear": [], "about": []}
    for name in present:
        kinds[role(name, about)].append(name)
    return kinds


def _taken(
    possible: Sequence[str],
    is_clear: bool,
    present: Sequence[str],
    given: Sequence[str],
    faults: FileFaults,
    what: str = "prediction",
) -> tuple[str, ...]:
    """The columns that the user names, or those that are clear; otherwise the user is asked."""
    if given:
        possible, is_clear = (), {*given} <= {*present}
    if is_clear:
        return tuple(given or possible)
    names = ", ".join(map(repr, possible or present)) or "no columns"
    why = f"{names} each could be" if possible else f"no column is known for it among {names}"
    faults.add(f"must show which column holds the {what}, {why}; give --{what}-column")
    return ()
