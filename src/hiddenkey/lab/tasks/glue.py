"""The paper's six tasks of GLUE, from a folder in the official layout or from the hub.

The layout is TASK/train.tsv and TASK/dev.tsv. GLUE's test sets have no labels; the development set
is the evaluation set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

from hiddenkey.lab.tasks import hub
from hiddenkey.lab.tasks.base import Source, Splits, Task
from hiddenkey.lab.tasks.files import find_folder
from hiddenkey.lab.tasks.tables import Columns, read_splits

DATASET: Final = "nyu-mll/glue"
_OTHERWISE: Final = f", or --data {hub.NAME}"
_BINARY: Final = {"0": 0, "1": 1}
_ENTAILMENT: Final = {"entailment": 0, "not_entailment": 1}


@dataclass(frozen=True)
class Layout:
    """One GLUE task as its files spell it.

    Attributes:
        official: the official name of the folder; ours is the task's.
        summary: one line for lists.
        metrics: names of its metrics, the main one first.
        columns: how rows become examples.
        label_names: names by class index, in the hub's order; empty for regression.
        hub_texts: the text columns on the hub, where they have other names than in the files.
    """

    official: str
    summary: str
    metrics: tuple[str, ...]
    columns: Columns
    label_names: tuple[str, ...] = ()
    hub_texts: tuple[str, ...] = ()


LAYOUTS: Final[Mapping[str, Layout]] = MappingProxyType(
    {
        "cola": Layout(
            "CoLA",
            "is a sentence acceptable English",
            ("matthews", "accuracy"),
            Columns(
                ("sentence",), "label", _BINARY, header=("source", "label", "mark", "sentence")
            ),
            ("unacceptable", "acceptable"),
        ),
        "rte": Layout(
            "RTE",
            "does the first text entail the second",
            ("accuracy",),
            Columns(("sentence1", "sentence2"), "label", _ENTAILMENT),
            tuple(_ENTAILMENT),
        ),
        "sst2": Layout(
            "SST-2",
            "sentiment of a sentence",
            ("accuracy",),
            Columns(("sentence",), "label", _BINARY),
            ("negative", "positive"),
        ),
        "stsb": Layout(
            "STS-B",
            "similarity of two sentences, 0 to 5 (regression)",
            ("pearson", "spearman"),
            Columns(("sentence1", "sentence2"), "score", score_range=(0.0, 5.0)),
        ),
        "mrpc": Layout(
            "MRPC",
            "do two sentences say the same",
            ("accuracy", "f1"),
            Columns(("#1 String", "#2 String"), "Quality", _BINARY),
            ("not_equivalent", "equivalent"),
            hub_texts=("sentence1", "sentence2"),
        ),
        "qnli": Layout(
            "QNLI",
            "does the sentence answer the question",
            ("accuracy",),
            Columns(("question", "sentence"), "label", _ENTAILMENT),
            tuple(_ENTAILMENT),
        ),
    }
)
"""The tasks by name, as their files spell them."""


def _load(name: str, source: Source) -> Splits:
    layout = LAYOUTS[name]
    if source.data == hub.NAME:
        return _from_hub(name, layout)
    names = (name, layout.official)
    folder = find_folder(source.data, names, ("train.tsv", "dev.tsv"))
    parts = read_splits(folder / "train.tsv", folder / "dev.tsv", layout.columns)
    return Splits(*parts, layout.label_names)


def _from_hub(name: str, layout: Layout) -> Splits:
    texts = layout.hub_texts or layout.columns.texts
    classes = {str(index): index for index in range(len(layout.label_names))}
    columns = Columns(texts, "label", classes or None, layout.columns.score_range)
    train, evaluation = (
        hub.read_examples(DATASET, name, split, columns) for split in ("train", "validation")
    )
    return Splits(train, evaluation, layout.label_names)


def _task(name: str, layout: Layout) -> Task:
    return Task(
        name=name,
        summary=f"GLUE {layout.official}: {layout.summary}",
        kind="regression" if layout.columns.labels is None else "classification",
        metrics=layout.metrics,
        needs="folder",
        files=f"{name}/train.tsv",
        otherwise=_OTHERWISE,
        load=partial(_load, name),
    )


TASKS: Final = tuple(_task(name, layout) for name, layout in LAYOUTS.items())
