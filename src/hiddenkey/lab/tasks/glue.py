"""The paper's six tasks of GLUE, from a folder in the official layout or from the hub.

The layout is TASK/train.tsv and TASK/dev.tsv. GLUE's test sets have no labels; the development set
is the evaluation set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.tasks import hub
from hiddenkey.lab.tasks.base import Source, Splits, Task
from hiddenkey.lab.tasks.tables import Columns, read_splits

DATASET: Final = "nyu-mll/glue"


@dataclass(frozen=True)
class Layout:
    """One GLUE task as its files spell it.

    Attributes:
        folders: names of the folder, ours first, then the official one.
        columns: how rows become examples.
        label_names: names by class index, in the hub's order; empty for regression.
        hub_texts: the text columns on the hub, where they have other names than in the files.
    """

    folders: tuple[str, ...]
    columns: Columns
    label_names: tuple[str, ...] = ()
    hub_texts: tuple[str, ...] = ()


LAYOUTS: Final[Mapping[str, Layout]] = MappingProxyType(
    {
        "cola": Layout(
            ("cola", "CoLA"),
            Columns(
                texts=("sentence",),
                label="label",
                labels={"0": 0, "1": 1},
                header=("source", "label", "mark", "sentence"),
            ),
            ("unacceptable", "acceptable"),
        ),
        "rte": Layout(
            ("rte", "RTE"),
            Columns(
                texts=("sentence1", "sentence2"),
                label="label",
                labels={"entailment": 0, "not_entailment": 1},
            ),
            ("entailment", "not_entailment"),
        ),
        "sst2": Layout(
            ("sst2", "SST-2"),
            Columns(texts=("sentence",), label="label", labels={"0": 0, "1": 1}),
            ("negative", "positive"),
        ),
        "stsb": Layout(
            ("stsb", "STS-B"),
            Columns(texts=("sentence1", "sentence2"), label="score", score_range=(0.0, 5.0)),
        ),
        "mrpc": Layout(
            ("mrpc", "MRPC"),
            Columns(texts=("#1 String", "#2 String"), label="Quality", labels={"0": 0, "1": 1}),
            ("not_equivalent", "equivalent"),
            hub_texts=("sentence1", "sentence2"),
        ),
        "qnli": Layout(
            ("qnli", "QNLI"),
            Columns(
                texts=("question", "sentence"),
                label="label",
                labels={"entailment": 0, "not_entailment": 1},
            ),
            ("entailment", "not_entailment"),
        ),
    }
)
"""The tasks by name, as their files spell them."""


def find_folder(root: Path, names: tuple[str, ...]) -> Path:
    """Return the task's folder: ``root/NAME``, or ``root`` itself where it holds the files.

    Raises:
        ConfigError: if neither holds a train.tsv, with the places that were searched.
    """
    places = [*(root / name for name in names), root]
    for place in places:
        if (place / "train.tsv").is_file():
            return place
    searched = ", ".join(str(place / "train.tsv") for place in places)
    raise ConfigError(
        f"--data must be a folder that holds {names[0]}/train.tsv and {names[0]}/dev.tsv, got"
        f" {str(root)!r} (searched {searched}); give the folder above the task's folder"
    )


def _load(layout: Layout, source: Source) -> Splits:
    if source.folder is None:
        raise ConfigError(
            f"the task needs --data, got none; give the folder that holds {layout.folders[0]}/, or"
            f" --data {hub.NAME} to fetch it"
        )
    if str(source.folder) == hub.NAME:
        return _from_hub(layout)
    folder = find_folder(source.folder, layout.folders)
    train, evaluation = read_splits(folder / "train.tsv", folder / "dev.tsv", layout.columns)
    return Splits(train, evaluation, layout.label_names)


def _from_hub(layout: Layout) -> Splits:
    texts = layout.hub_texts or layout.columns.texts
    classes = {str(index): index for index in range(len(layout.label_names))}
    columns = Columns(texts, "label", classes or None, layout.columns.score_range)
    train, evaluation = (
        hub.read_examples(DATASET, layout.folders[0], split, columns)
        for split in ("train", "validation")
    )
    return Splits(train, evaluation, layout.label_names)


def _task(name: str, summary: str, metrics: tuple[str, ...]) -> Task:
    layout = LAYOUTS[name]
    return Task(
        name=name,
        summary=summary,
        kind="regression" if layout.columns.labels is None else "classification",
        metrics=metrics,
        needs="folder",
        files=f"{name}/train.tsv",
        otherwise=f", or --data {hub.NAME}",
        load=partial(_load, layout),
        text_columns=layout.columns.texts,
        label_column=layout.columns.label,
        label_names=layout.label_names,
    )


COLA: Final = _task("cola", "GLUE CoLA: is a sentence acceptable English", ("matthews", "accuracy"))
RTE: Final = _task("rte", "GLUE RTE: does the first text entail the second", ("accuracy",))
SST2: Final = _task("sst2", "GLUE SST-2: sentiment of a sentence", ("accuracy",))
STSB: Final = _task(
    "stsb",
    "GLUE STS-B: similarity of two sentences, 0 to 5 (regression)",
    ("pearson", "spearman"),
)
MRPC: Final = _task("mrpc", "GLUE MRPC: do two sentences say the same", ("accuracy", "f1"))
QNLI: Final = _task("qnli", "GLUE QNLI: does the sentence answer the question", ("accuracy",))
