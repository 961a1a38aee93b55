"""E2E and WebNLG as tasks to train on: a line of data is the prompt, a text is to be generated.

Training takes each text as an example of its own; evaluation takes each meaning representation or
set of triples once, with all its texts as references.

E2E (Dušek et al. 2018) has CSV files with a row for each text. A meaning representation, such as
``name[Aromi], area[riverside]``, has several texts, which need not follow each other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.scores import METRICS
from hiddenkey.lab.tasks.base import Example, Source, Splits, Task
from hiddenkey.lab.tasks.files import find_folder
from hiddenkey.lab.tasks.tables import Columns, read_splits
from hiddenkey.lab.tasks.webnlg import Entry, read_entries

E2E_COLUMNS: Final = Columns(("mr",), "ref", is_text=True)
_END_OF_DATA: Final = " ||"  # as in the LoRA paper, between the data and the text
_ATTRIBUTE: Final = re.compile(r"\s*([^\[\],]+)\[([^\]]*)\]\s*,?")
_E2E_FILES: Final = {
    "train": "trainset.csv",
    "dev": "devset.csv",
    "test": "testset_w_refs.csv",
}


def merge_references(examples: Sequence[Example]) -> tuple[Example, ...]:
    """Return one example for each prompt, with all its texts as references, in order."""
    by_prompt: dict[tuple[object, ...], list[Example]] = defaultdict(list)
    for example in examples:
        by_prompt[example.texts, example.turns].append(example)
    return tuple(
        replace(found[0], references=tuple(str(each.label) for each in found))
        for found in by_prompt.values()
    )


def meaning_as_prompt(meaning: str) -> str:
    """Return ``name : Aromi | area : riverside ||`` for ``name[Aromi], area[riverside]``."""
    attributes = _ATTRIBUTE.findall(meaning)
    line = " | ".join(f"{name.strip()} : {value}" for name, value in attributes)
    return (line or meaning) + _END_OF_DATA


def _load_e2e(source: Source) -> Splits:
    folder = find_folder(source.data, ("e2e",), (_E2E_FILES["train"],))
    files = [folder / _E2E_FILES[part] for part in ("train", source.eval_split)]
    train, evaluation = read_splits(files[0], files[1], E2E_COLUMNS)
    return Splits(_with_prompts(train), _with_prompts(merge_references(evaluation)))


def _with_prompts(examples: Sequence[Example]) -> tuple[Example, ...]:
    return tuple(
        replace(example, texts=(meaning_as_prompt(example.texts[0]),)) for example in examples
    )


def _load_webnlg(source: Source) -> Splits:
    folder = find_folder(source.data, ("webnlg_2017", "webnlg"), ("train",))
    parts: list[tuple[Entry, ...]] = []
    faults: list[str] = []
    for part in ("train", source.eval_split):
        try:
            parts.append(read_entries(folder / part))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    train, evaluation = parts
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


E2E: Final = Task(
    name="e2e",
    summary="E2E: describe a restaurant",
    kind="generation",
    metrics=METRICS["e2e"],
    needs="folder",
    load=_load_e2e,
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
    files="webnlg_2017/train",
    family="webnlg",
)
