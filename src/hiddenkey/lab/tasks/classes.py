"""The classes of one's own labels: how they are spelled, which are missing, and what looks wrong.

A label that is missing, or that is spelled in two ways, would silently become a class. Where a user
names the classes (``--label-names``), the names count as they are.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from statistics import fmean
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.tasks.base import Example, Splits

_MOST_CLASSES: Final = 1000
_MOST_SHOWN: Final = 12
_MISSING: Final = frozenset(
    ("-", "?", "#n/a", "<na>", "n/a", "na", "nan", "nat", "nil", "none", "null", "undefined")
)
"""How programs write that there is no value, in lower case."""
_SEPARATORS: Final = re.compile(r"[,;|/+&]")
_NAMES: Final = "--label-names"


def spelling(value: object) -> str:
    """A label as it is spelled in a file; JSON's 1, true and "1" count as themselves.

    Raises:
        ConfigError: if it is missing, or no single text, number or truth value.
    """
    if not isinstance(value, str | bool | int | float | Decimal | None):
        raise ConfigError("is not one text, number or true/false; give one label a row")
    if value is None or value != value or (isinstance(value, str) and not _letters(value)):
        raise ConfigError("is missing; fill it in or delete the row")
    return str(value) if isinstance(value, str | Decimal) else json.dumps(value)


def open_spelling(value: object) -> str:
    """A label that may name any class, as it is spelled in a file.

    Raises:
        ConfigError: as :func:`spelling`, and for what usually means that there is no single label.
    """
    name = spelling(value)
    if _letters(name) in _MISSING:
        raise ConfigError(f"is missing; delete the row, or name it in {_NAMES} if it is a class")
    if name.strip()[0] in "[{(" and name.strip()[-1] in "]})":
        raise ConfigError(f"is a list; give one label a row, or name it in {_NAMES}")
    return name


def near(value: str, names: Iterable[str]) -> str:
    """Return a hint at the name that differs from a label only in how it is written, if any."""
    return next((f"; write {name!r}" for name in names if _key(name) == _key(value)), "")


def in_order(counts: Mapping[str, int]) -> tuple[str, ...]:
    """Return the classes' names, numbers in their order, else alphabetical."""
    numbers = {name: key for name in counts if isinstance(key := _key(name), Decimal)}
    return tuple(sorted(counts, key=numbers.__getitem__ if len(numbers) == len(counts) else None))


def doubts(counts: Mapping[str, int], column: str) -> list[str]:
    """Return what makes some labels of a training file, with their rows, no classes to train on."""
    if not 2 <= len(counts) <= _MOST_CLASSES:
        return [
            f"column {column!r} must hold 2 to {_MOST_CLASSES} different labels, got {len(counts)};"
            f" name another --label-column, give {_NAMES}, or use --regression for scores"
        ]
    written = defaultdict(list)
    for name in counts:
        written[_key(name)].append(name)
    found = [
        f"labels must each be written in one way, got {_counted(names, counts)}; write one of them"
        f" everywhere, or give all labels in {_NAMES} to keep them apart"
        for names in written.values()
        if len(names) > 1
    ]
    parts = {name: [p for p in _SEPARATORS.split(name) if p.strip()] for name in counts}
    joined = [n for n in counts if len(parts[n]) > 1 and all(_key(p) in written for p in parts[n])]
    if joined:
        found.append(
            f"a row must have one label, got {_counted(joined, counts)}, whose parts are labels"
            f" too; give one label a row, or all labels in {_NAMES}"
        )
    return found


def described(splits: Splits) -> list[str]:
    """Return a line for each part of the data, with its size and classes, and what was noted."""
    parts = {"training": splits.train, "evaluation": splits.evaluation}
    lines = [
        f"{what} examples: {len(part):,} ({_labels(part, splits.label_names)})"
        for what, part in parts.items()
    ]
    return [*lines, *splits.notes]


def _labels(part: Sequence[Example], names: Sequence[str]) -> str:
    scores = [example.label for example in part if not isinstance(example.label, str)]
    if not scores:
        return f"{len({example.texts for example in part}):,} prompts"
    if not names:
        return f"scores from {min(scores):g} to {max(scores):g}, mean {fmean(scores):.4g}"
    found = Counter(scores)
    if len(names) <= _MOST_SHOWN:
        return ", ".join(f"{name}: {found[index]:,}" for index, name in enumerate(names))
    counts = [found[index] for index in range(len(names))]
    return f"{len(names)} classes of {min(counts):,} to {max(counts):,}, {counts.count(0)} empty"


@lru_cache(maxsize=4096)
def _key(name: str) -> object:
    """What two spellings of one label have in common: a number, or the letters in lower case."""
    text = {"true": "1", "false": "0"}.get(_letters(name), _letters(name))
    try:
        number = Decimal(text)
    except ArithmeticError:
        return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", text)
    return number if number.is_finite() else text


@lru_cache(maxsize=4096)
def _letters(name: str) -> str:
    """What can be seen of a label, in lower case."""
    text = unicodedata.normalize("NFKC", name).casefold()
    return "".join(letter for letter in text if unicodedata.category(letter) != "Cf").strip()


def _counted(names: Sequence[str], counts: Mapping[str, int]) -> str:
    of = f"of {sum(counts.values()):,} rows"
    shown = [f"{name!r} ({counts[name]:,} {of})" for name in names[:_MOST_SHOWN]]
    return ", ".join(shown) + ", …" * (len(names) > _MOST_SHOWN)
