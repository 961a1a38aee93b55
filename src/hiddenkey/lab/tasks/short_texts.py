"""Short texts to classify, from a folder with the files of their usual distributions.

Three data sets have no split of their own. Which of their texts are evaluated on is fixed by a hash
of the text, as for the headlines. A training text that is evaluated on as well is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.tasks.base import Example, Source, Splits, Task
from hiddenkey.lab.tasks.files import FileFaults, read_bytes, read_text, refuse

_EVALUATED: Final = 5
"""Of a set without a split, one text in so many is evaluated on."""

Read = Callable[[Sequence[Path], Sequence[str]], list[Example]]


@dataclass(frozen=True)
class Layout:
    """One task as its files spell it.

    Attributes:
        summary: one line for lists.
        label_names: names by class index.
        train: names of the files of the training part, or of all texts.
        evaluation: those of the evaluation part; empty where there is no split.
        read: reads the examples of a part.
    """

    summary: str
    label_names: tuple[str, ...]
    train: tuple[str, ...]
    evaluation: tuple[str, ...]
    read: Read


def _numbered_lines(paths: Sequence[Path], names: Sequence[str]) -> list[Example]:
    """Read lines of a class number, a space and a text, in Latin-1."""
    (path,) = paths
    faults = FileFaults(path)
    raw = read_bytes(path, faults)
    examples = []
    # Latin-1 has line ends of its own, which are letters here
    lines = [] if raw is None else raw.decode("latin-1").split("\n")
    for number, line in enumerate(lines, start=1):
        label, _, text = line.partition(" ")
        if line.strip():
            examples += _example(label, text, names, faults, number)
    refuse(faults)
    return examples


def _line_by_line(paths: Sequence[Path], names: Sequence[str]) -> list[Example]:
    """Read a file of texts and one of class numbers, line by line."""
    faults = [FileFaults(path) for path in paths]
    read = [read_text(path, each) for path, each in zip(paths, faults, strict=True)]
    refuse(*faults)
    texts, labels = ((text or "").removesuffix("\n").split("\n") for text in read)
    if len(texts) != len(labels):
        raise ConfigError(
            f"{paths[1]} must have a line for each of the {len(texts):,} texts of {paths[0].name},"
            f" got {len(labels):,}; take both from one distribution"
        )
    examples = []
    for number, (text, label) in enumerate(zip(texts, labels, strict=True), start=1):
        examples += _example(label.strip(), text, names, faults[1], number)
    refuse(*faults)
    return examples


def _example(
    label: str, text: str, names: Sequence[str], faults: FileFaults, line: int
) -> list[Example]:
    if label not in map(str, range(len(names))):
        faults.add(f"must begin with a class from 0 to {len(names) - 1}, got {label[:20]!r}", line)
        return []
    return [Example((text.strip(),), int(label))]


def _two_parts(name: str, folder: Path, layout: Layout) -> Splits:
    train = layout.read([folder / file for file in layout.train], layout.label_names)
    if layout.evaluation:
        files = [folder / file for file in layout.evaluation]
        return _apart(train, layout.read(files, layout.label_names), layout.label_names)
    by_text = {example.texts: example for example in train}
    by_hash = sorted(by_text, key=lambda texts: hashlib.sha256(texts[0].encode()).digest())
    examples = [by_text[texts] for texts in by_hash]
    size = len(examples) // _EVALUATED
    return _apart(examples[size:], examples[:size], layout.label_names)


def _apart(train: list[Example], evaluation: list[Example], names: tuple[str, ...]) -> Splits:
    """Return both parts without empty texts, and no text of the evaluation in the training."""
    evaluated = {example.texts for example in evaluation if example.texts[0]}
    texts = [example for example in train if example.texts[0]]
    kept = tuple(example for example in texts if example.texts not in evaluated)
    notes = []
    if len(texts) > len(kept):
        count = len(texts) - len(kept)
        notes.append(f"left out {count:,} training texts that are evaluated on")
    if len(train) > len(texts):
        notes.append(f"left out {len(train) - len(texts):,} rows without a text")
    evaluation = [example for example in evaluation if example.texts[0]]
    return Splits(kept, tuple(evaluation), names, notes=tuple(notes))


def _intents(name: str, folder: Path) -> Splits:
    """Read CLINC150's JSON file; what is out of its scope is left out."""
    path = folder / _CLINC
    faults = FileFaults(path)
    text = read_text(path, faults)
    refuse(faults)
    try:
        parts: dict[str, Any] = json.loads(text or "")
        rows = {part: [(str(a), str(b)) for a, b in parts[part]] for part in ("train", "test")}
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ConfigError(
            f"{path} must be JSON with lists 'train' and 'test' of [text, intent]; take the file of"
            " the distribution"
        ) from None
    names = tuple(sorted({intent for _, intent in rows["train"]}))
    if unknown := sorted({intent for _, intent in rows["test"]} - set(names)):
        raise ConfigError(f"{path}: intent {unknown[0]!r} is in 'test' alone; correct the file")
    examples = {
        part: [Example((text.strip(),), names.index(intent)) for text, intent in own]
        for part, own in rows.items()
    }
    return _apart(examples["train"], examples["test"], names)


_TREC: Final = ("description", "entity", "abbreviation", "human", "location", "number")
_EMOTIONS: Final = ("anger", "joy", "optimism", "sadness")
_CLINC: Final = "clinc_small.json"


def _tweets(kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    train, test = (
        (f"tweet_{kind}_{part}.txt", f"tweet_{kind}_{part}.lab") for part in ("train", "test")
    )
    return train, test


LAYOUTS: Final = {
    "trec": Layout(
        "TREC: what a question asks for, 6 classes",
        _TREC,
        ("TREC.train.all",),
        ("TREC.test.all",),
        _numbered_lines,
    ),
    "subj": Layout(
        "Subj: is a sentence of a film page opinion or plot",
        ("subjective", "objective"),
        ("subj.all",),
        (),
        _numbered_lines,
    ),
    "mr": Layout(
        "MR: sentiment of a film review's sentence",
        ("negative", "positive"),
        ("rt-polarity.all",),
        (),
        _numbered_lines,
    ),
    "cr": Layout(
        "CR: sentiment of a customer review's sentence",
        ("negative", "positive"),
        ("custrev.all",),
        (),
        _numbered_lines,
    ),
    "irony": Layout(
        "TweetEval: is a tweet ironic", ("plain", "ironic"), *_tweets("irony"), _line_by_line
    ),
    "emotion": Layout(
        "TweetEval: emotion of a tweet, 4 classes", _EMOTIONS, *_tweets("emotion"), _line_by_line
    ),
}
"""The tasks by name, as their files spell them."""


def _load(
    name: str, files: Sequence[str], read: Callable[[str, Path], Splits], source: Source
) -> Splits:
    return read(name, _folder(source.data, name, files))


def _folder(given: str | None, name: str, files: Sequence[str]) -> Path:
    """Return the folder with the files: the given one, or one in it.

    Raises:
        ConfigError: if there is none.
    """
    root = Path(given or ".")
    inside = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for place in (root / name, root, *inside):
        if (place / files[0]).exists():
            return place
    raise ConfigError(
        f"--data must be a folder that holds {' and '.join(files)}, or one above it, got {given!r};"
        f" take the files of {name} from its usual distribution"
    )


def _task(
    name: str, summary: str, files: Sequence[str], read: Callable[[str, Path], Splits]
) -> Task:
    return Task(
        name=name,
        summary=summary,
        kind="classification",
        metrics=("accuracy", "f1_macro"),
        needs="folder",
        files=files[0],
        load=partial(_load, name, files, read),
    )


TASKS: Final = (
    *(
        _task(
            name,
            layout.summary,
            layout.train + layout.evaluation,
            partial(_two_parts, layout=layout),
        )
        for name, layout in LAYOUTS.items()
    ),
    _task("clinc150", "CLINC150: intent of a request, 150 classes", (_CLINC,), _intents),
)
