"""E2E and WebNLG as tasks to train on: a line of data is the prompt, a text is to be generated.

Training takes each text as an example of its own; evaluation takes each meaning representation or
set of triples once, with all its texts as references.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from hiddenkey.errors import ConfigError
from hiddenkey.lab.scores import METRICS
from hiddenkey.lab.tasks.base import Example, Source, Splits, Task
from hiddenkey.lab.tasks.e2e import group_pairs, read_pairs
from hiddenkey.lab.tasks.webnlg import read_entries

Part = TypeVar("Part")

_END_OF_DATA: Final = " ||"  # as in the LoRA paper, to tell the data from the text
_ATTRIBUTE: Final = re.compile(r"\s*([^\[\],]+)\[([^\]]*)\]\s*,?")
_E2E_FILES: Final = {
    "train": "trainset.csv",
    "dev": "devset.csv",
    "test": "testset_w_refs.csv",
}


def meaning_as_prompt(meaning: str) -> str:
    """Return ``name : Aromi | area : riverside ||`` for ``name[Aromi], area[riverside]``."""
    attributes = _ATTRIBUTE.findall(meaning)
    line = " | ".join(f"{name.strip()} : {value}" for name, value in attributes)
    return (line or meaning) + _END_OF_DATA


def _load_e2e(source: Source) -> Splits:
    folder = _find(source, ("e2e",), _E2E_FILES["train"])
    files = [folder / _E2E_FILES[part] for part in ("train", source.split)]
    train, evaluation = _read_both(read_pairs, files)
    return Splits(
        tuple(Example((meaning_as_prompt(pair.source),), pair.text) for pair in train),
        tuple(
            Example((meaning_as_prompt(found.source),), found.references[0], found.references)
            for found in group_pairs(evaluation)
        ),
    )


def _load_webnlg(source: Source) -> Splits:
    folder = _find(source, ("webnlg_2017", "webnlg"), "train")
    train, evaluation = _read_both(read_entries, [folder / "train", folder / source.split])
    has_unseen = not all(entry.seen for entry in evaluation)
    return Splits(
        tuple(
            Example((entry.source + _END_OF_DATA,), text)
            for entry in train
            for text in entry.references
        ),
        tuple(
            Example(
                (entry.source + _END_OF_DATA,),
                entry.references[0],
                entry.references,
                ("seen" if entry.seen else "unseen") if has_unseen else "",
            )
            for entry in evaluation
            if entry.references
        ),
    )


def _read_both(read: Callable[[Path], Part], paths: Sequence[Path]) -> list[Part]:
    parts: list[Part] = []
    faults: list[str] = []
    for path in paths:
        try:
            parts.append(read(path))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return parts


def _find(source: Source, names: tuple[str, ...], content: str) -> Path:
    if source.folder is None:
        raise ConfigError(f"the task needs --data, got none; give the folder that holds {names[0]}")
    places = [*(source.folder / name for name in names), source.folder]
    for place in places:
        if (place / content).exists():
            return place
    searched = ", ".join(str(place / content) for place in places)
    raise ConfigError(
        f"--data must be a folder that holds {names[0]}/{content}, got {str(source.folder)!r}"
        f" (searched {searched}); give the folder above the task's folder"
    )


E2E: Final = Task(
    name="e2e",
    summary="E2E: describe a restaurant",
    kind="generation",
    metrics=METRICS["e2e"],
    needs="folder",
    load=_load_e2e,
    text_columns=("mr",),
    label_column="ref",
    files="e2e/trainset.csv",
    family="e2e",
)
WEBNLG: Final = Task(
    name="webnlg",
    summary="WebNLG 2017: say what a few facts say",
    kind="generation",
    metrics=METRICS["webnlg"],
    needs="folder",
    load=_load_webnlg,
    text_columns=("triples",),
    label_column="lex",
    files="webnlg_2017/train",
    family="webnlg",
)
