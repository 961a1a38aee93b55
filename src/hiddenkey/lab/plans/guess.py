"""What a file of one's own holds: which column is the text, which the label, or a conversation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.tasks.chats import find_form
from hiddenkey.lab.tasks.files import FileFaults, refuse
from hiddenkey.lab.tasks.tables import read_rows

_LABELS: Final = (
    *("label", "labels", "class", "category", "target", "sentiment", "topic", "intent"),
    *("emotion", "score", "rating", "stars", "grade", "y"),
)
_TEXTS: Final = ("text", "sentence", "content", "review", "comment", "message", "title", "headline")
_PAIRS: Final = (
    *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("question", "sentence")),
    *(("text1", "text2"), ("text_a", "text_b"), ("question1", "question2")),
)
_PARTS: Final = {"train", "training", "dev", "val", "valid", "validation", "test", "eval"}
"""What a column says that names the part of the data that a row belongs to."""

_MOST_CLASSES: Final = 100
_SCORES: Final = 10
"""Different numbers, some with decimals, beyond which they are scores and not classes."""
_NAME: Final = 3
"""Words of a column's name; a sentence has more."""


@dataclass(frozen=True)
class Guess:
    """What a file is, as settings of a run, each with its reason.

    Attributes:
        task: ``file`` or ``completion``.
        settings: settings of the run by name.
        reasons: why, by the same names.
        unused: what is said of columns that name parts of the data; empty if there are none.
    """

    task: str
    settings: Mapping[str, Any]
    reasons: Mapping[str, str]
    unused: str = ""


@dataclass(frozen=True)
class _Column:
    """A column and what is in it; missing values are left out."""

    name: str
    values: tuple[Any, ...]

    @property
    def counts(self) -> Counter[str]:
        return Counter(map(str, self.values))

    @property
    def numbers(self) -> list[float]:
        """The values as numbers; none if one of them is no number."""
        with suppress(TypeError, ValueError, OverflowError):
            return [float(value) for value in self.values]
        return []

    @property
    def words(self) -> float:
        """Words of a text on average; 0 if not all values are texts, or all are numbers."""
        texts = [value for value in self.values if isinstance(value, str)]
        is_text = texts and len(texts) == len(self.values) and not self.numbers
        return fmean(len(text.split()) for text in texts) if is_text else 0.0


def guess(path: Path, given: Mapping[str, Any]) -> Guess:
    """Read a file and say what it holds.

    Args:
        path: .csv, .tsv, .jsonl or .parquet.
        given: settings of the runs that the user knows better.

    Raises:
        ConfigError: with the file's faults, or if no column can be the text or the label.
    """
    faults = FileFaults(path)
    rows = [row.values for row in read_rows(path, (), faults)]
    refuse(faults)
    names = tuple(rows[0])
    columns = [_column(name, rows) for name in names]
    parts = [each for each in columns if _names_parts(each, given)]
    unused = "; ".join(map(_unused, parts))
    if {"prompt", "completion"} <= {*names}:
        return Guess("completion", {}, {"train_file": "columns 'prompt' and 'completion'"}, unused)
    if form := find_form(names):
        reason = f"read as {form.name}, by their columns"
        return Guess("completion", {}, {"train_file": reason}, unused)
    columns = [each for each in columns if each not in parts]
    label, why_label = _label(path, columns, given)
    texts, why_texts = _texts(columns, label, given)
    if label is None or not texts:
        raise ConfigError(
            f"{path}: must have a column of texts and one of two or more labels, got"
            f" {', '.join(names)}; name"
            " them by --common.text_columns [NAME] and --common.label_column NAME"
        )
    if not {"text_columns", "label_column"} & {*given} and _is_row(texts, label):
        raise ConfigError(
            f"{path}: must begin with the names of its columns, got a row of the label"
            f" {label.name!r}; write a line such as text,label above it"
        )
    settings: dict[str, Any] = {"text_columns": texts, "label_column": label.name}
    reasons = {"text_columns": why_texts, "label_column": why_label}
    if _are_scores(label):
        settings["regression"] = True
        reasons["regression"] = "the labels are numbers with decimals; leave it out if not"
    return Guess("file", settings, reasons, unused)


def _column(name: str, rows: Sequence[Mapping[str, Any]]) -> _Column:
    values = (row.get(name) for row in rows)
    return _Column(name, tuple(value for value in values if value is not None and value != ""))


def _names_parts(column: _Column, given: Mapping[str, Any]) -> bool:
    """Whether a column names parts of the data, and the user does not take it for the label."""
    if not column.values or column.name == given.get("label_column"):
        return False
    return all(str(value).strip().casefold() in _PARTS for value in column.values)


def _unused(column: _Column) -> str:
    shown = ", ".join(f"{name} {count:,}" for name, count in column.counts.most_common())
    return (
        f"column {column.name!r} names parts ({shown}) and is not used; split the file by it and"
        " give the part to evaluate on as eval_file"
    )


def _is_row(texts: Sequence[str], label: _Column) -> bool:
    """Whether the first line holds no names but a row: one of the labels, and a sentence."""
    return label.name in label.counts and any(len(name.split()) > _NAME for name in texts)


def _are_scores(column: _Column) -> bool:
    numbers = column.numbers
    return len({*numbers}) > _SCORES and not all(number.is_integer() for number in numbers)


def _label(
    path: Path, columns: Sequence[_Column], given: Mapping[str, Any]
) -> tuple[_Column | None, str]:
    """The label's column and the reason: it is named so, or has the fewest different values.

    Raises:
        ConfigError: if several columns have the fewest.
    """
    if name := given.get("label_column"):
        return next((each for each in columns if each.name == name), None), "as you said"
    named = {each.name.lower(): each for each in columns if len(each.counts) >= 2}
    for name in filter(named.__contains__, _LABELS):
        return named[name], f"by its name; {_described(named[name])}"
    few = [
        each
        for each in columns
        if 2 <= len(each.counts) <= min(_MOST_CLASSES, len(each.values) // 2)
    ]
    fewest = min((len(each.counts) for each in few), default=0)
    found = [each for each in few if len(each.counts) == fewest]
    if len(found) > 1:
        raise ConfigError(
            f"{path}: must have one column that can be the label, got"
            f" {', '.join(repr(each.name) for each in found)} with {fewest} different values each;"
            " name one by --common.label_column NAME (a text has one label; tune or compare several"
            " columns one after the other)"
        )
    if not found:
        return None, ""
    return found[0], f"the fewest different values; {_described(found[0])}"


def _described(column: _Column) -> str:
    if _are_scores(column):
        return f"numbers from {min(column.numbers):g} to {max(column.numbers):g}"
    counts = column.counts.most_common(8)
    shown = ", ".join(f"{name} {count:,}" for name, count in counts)
    more = ", …" if len(column.counts) > 8 else ""
    hint = "; if these are scores, add regression: true" if _may_be_scores(column) else ""
    return f"{len(column.counts)} classes: {shown}{more}{hint}"


def _may_be_scores(column: _Column) -> bool:
    """Whether the labels are so many whole numbers that they may well be amounts."""
    return len({*column.numbers}) > _SCORES


def _texts(
    columns: Sequence[_Column], label: _Column | None, given: Mapping[str, Any]
) -> tuple[list[str], str]:
    """The columns of the text or the pair, and the reason: the names, or the longest texts."""
    if names := given.get("text_columns"):
        return list(names), "as you said"
    words = {each.name: each.words for each in columns if each is not label and each.words}
    lower = {name.lower(): name for name in words}
    for pair in _PAIRS:
        if {*pair} <= {*lower}:
            return [lower[name] for name in pair], "a pair, by their names"
    for name in filter(lower.__contains__, _TEXTS):
        return [lower[name]], "by its name"
    longest = max(words, key=words.__getitem__, default=None)
    if longest is None:
        return [], ""
    return [longest], f"the longest texts, {words[longest]:.0f} words on average"
