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

from hiddenkey.errors import ConfigError
from hiddenkey.installation import install_command
from hiddenkey.lab.tasks.base import Example, Source, Splits, Task
from hiddenkey.lab.tasks.files import FileFaults, find_folder
from hiddenkey.lab.tasks.tables import Columns, Row, read_splits, to_examples

DATASET: Final = "nyu-mll/glue"
HUB: Final = "hub"
"""What a user writes for a folder to fetch the examples from the Hugging Face hub."""
_BINARY: Final = {"0": 0, "1": 1}
_ENTAILMENT: Final = {"entailment": 0, "not_entailment": 1}


@dataclass(frozen=True)
class GlueLayout:
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


LAYOUTS: Final[Mapping[str, GlueLayout]] = MappingProxyType(
    {
        "cola": GlueLayout(
            "CoLA",
            "is a sentence acceptable English",
            ("matthews", "accuracy"),
            Columns(
                ("sentence",), "label", _BINARY, header=("source", "label", "mark", "sentence")
            ),
            ("unacceptable", "acceptable"),
        ),
        "rte": GlueLayout(
            "RTE",
            "does the first text entail the second",
            ("accuracy",),
            Columns(("sentence1", "sentence2"), "label", _ENTAILMENT),
            tuple(_ENTAILMENT),
        ),
        "sst2": GlueLayout(
            "SST-2",
            "sentiment of a sentence",
            ("accuracy",),
            Columns(("sentence",), "label", _BINARY),
            ("negative", "positive"),
        ),
        "stsb": GlueLayout(
            "STS-B",
            "similarity of two sentences, 0 to 5 (regression)",
            ("pearson", "spearman"),
            Columns(("sentence1", "sentence2"), "score", score_range=(0.0, 5.0)),
        ),
        "mrpc": GlueLayout(
            "MRPC",
            "do two sentences say the same",
            ("accuracy", "f1"),
            Columns(("#1 String", "#2 String"), "Quality", _BINARY),
            ("not_equivalent", "equivalent"),
            hub_texts=("sentence1", "sentence2"),
        ),
        "qnli": GlueLayout(
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
    if source.data == HUB:
        return _from_hub(name, layout)
    names = (name, layout.official)
    folder = find_folder(source.data, names, ("train.tsv", "dev.tsv"))
    parts = read_splits(folder / "train.tsv", folder / "dev.tsv", layout.columns)
    return Splits(*parts, layout.label_names)


def _from_hub(name: str, layout: GlueLayout) -> Splits:
    texts = layout.hub_texts or layout.columns.texts
    classes = {str(index): index for index in range(len(layout.label_names))}
    columns = Columns(texts, "label", classes or None, layout.columns.score_range)
    train, evaluation = (_fetch(name, split, columns) for split in ("train", "validation"))
    return Splits(train, evaluation, layout.label_names)


def _fetch(task: str, split: str, columns: Columns) -> tuple[Example, ...]:
    """Fetch one split from the hub, or read it from the hub's cache."""
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise ConfigError(
            "data from the hub need the package 'datasets', which is missing; run:"
            f" {install_command('hub')}, or give --data FOLDER"
        ) from None
    try:
        rows = load_dataset(DATASET, task, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"{DATASET}, part {task!r}, could not be fetched from the hub ({reason}); check the"
            " network, or give --data FOLDER with the files"
        ) from error
    faults = FileFaults(f"{DATASET}/{task}, {split}", unit="row")
    numbered = [Row(number, values) for number, values in enumerate(rows, start=1)]
    examples = to_examples(numbered, columns, faults)
    if faults.found or not examples:
        raise ConfigError(faults.shown() or f"{DATASET}/{task}, {split}: holds no example")
    return examples


def _task(name: str, layout: GlueLayout) -> Task:
    return Task(
        name=name,
        summary=f"GLUE {layout.official}: {layout.summary}",
        kind="regression" if layout.columns.labels is None else "classification",
        metrics=layout.metrics,
        needs="folder",
        files=f"{name}/train.tsv",
        otherwise=f", or --data {HUB}",
        load=partial(_load, name),
    )


TASKS: Final = tuple(_task(name, layout) for name, layout in LAYOUTS.items())
