"""What a task is: labelled text for training and evaluation, and the metrics that judge it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["classification", "regression"]


@dataclass(frozen=True)
class Example:
    """One labelled text or pair of texts; ``label`` is a class index or a score."""

    texts: tuple[str, ...]
    label: int | float


@dataclass(frozen=True)
class Splits:
    """The examples of a task.

    Attributes:
        train: the training pool.
        evaluation: the examples that are never trained on.
        label_names: names by class index; empty for regression.
    """

    train: tuple[Example, ...]
    evaluation: tuple[Example, ...]
    label_names: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Hash of every text and label in order, to tell whether two runs saw the same data."""
        digest = hashlib.sha256()
        for part in (self.train, self.evaluation):
            for example in part:
                digest.update(repr((example.texts, example.label)).encode())
            digest.update(b"\0")
        return digest.hexdigest()


@dataclass(frozen=True)
class Source:
    """Where the examples come from, for tasks that need to be told.

    Attributes:
        folder: folder that holds a sub-folder per task, or ``hub``.
        train_file: the user's own training file (.csv, .tsv, .jsonl or .parquet).
        eval_file: the user's own evaluation file.
        text_columns: one column, or two for pairs.
        label_column: column of the label or score.
        label_names: every label as it is spelled in the files; empty to infer them.
        regression: the label is a number to predict, not a class.
    """

    folder: Path | None = None
    train_file: Path | None = None
    eval_file: Path | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str = "label"
    label_names: tuple[str, ...] = ()
    regression: bool = False


@dataclass(frozen=True)
class Task:
    """A kind of question, its columns and its metrics.

    Attributes:
        name: as in ``--task``.
        summary: one line for lists.
        kind: classification or regression.
        metrics: names in ``hiddenkey.lab.metrics.METRICS``; the first one is the task's main one.
        needs: what a user must give: nothing (``bundled``), ``--data`` or own files.
        load: reads all examples; raises ConfigError with every fault of the data.
        text_columns: one column, or two for pairs; empty where the source says it.
        label_column: column of the label or score.
        label_names: names by class index, empty for regression or where they are inferred.
    """

    name: str
    summary: str
    kind: Kind
    metrics: tuple[str, ...]
    needs: Literal["bundled", "folder", "files"]
    load: Callable[[Source], Splits]
    text_columns: tuple[str, ...] = ()
    label_column: str = "label"
    label_names: tuple[str, ...] = ()
