"""What a task is: labelled text for training and evaluation, and the metrics that judge it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["classification", "regression", "generation"]

Turn = tuple[str, str]
"""Who speaks in a conversation (system, user, assistant), and what is said."""


@dataclass(frozen=True)
class Example:
    """One labelled text or pair of texts.

    Attributes:
        texts: the text, the pair of texts or, for generation, the prompt.
        label: a class index, a score or the text to generate.
        references: for evaluating generation, every text that is right; ``label`` is the first.
        group: the part of the evaluation set that the example belongs to, if there are scores by
            part.
        turns: what was said before the text to generate, where the prompt is a conversation.
    """

    texts: tuple[str, ...]
    label: int | float | str
    references: tuple[str, ...] = ()
    group: str = ""
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Splits:
    """The examples of a task.

    Attributes:
        train: the training pool.
        evaluation: the examples that are never trained on.
        label_names: names by class index; empty for regression.
        main_metric: what the examples are to be judged by, where that is not their task's first.
        notes: what a user should know of how the examples came about, a sentence each.
        pool: fingerprint of all examples that the training part was drawn from, where each seed has
            a draw of its own.
    """

    train: tuple[Example, ...]
    evaluation: tuple[Example, ...]
    label_names: tuple[str, ...] = ()
    main_metric: str = ""
    notes: tuple[str, ...] = ()
    pool: str = ""

    def fingerprint(self) -> str:
        """Hash of every text and label in order, to know whether two runs saw the same data.

        Of training examples that each seed draws anew, it is that of the whole pool and the sizes.
        """
        if self.pool:
            sizes = f"{self.pool} {len(self.train)} {len(self.evaluation)}"
            return hashlib.sha256(sizes.encode()).hexdigest()
        digest = hashlib.sha256()
        for part in (self.train, self.evaluation):
            for example in part:
                content: tuple[object, ...] = (example.texts, example.label)
                if example.references:
                    content += (example.references, example.group)
                if example.turns:
                    content += (example.turns,)
                digest.update(repr(content).encode())
            digest.update(b"\0")
        return digest.hexdigest()


@dataclass(frozen=True)
class Source:
    """Where the examples come from, for tasks that do not know: settings of a run."""

    data: str | None = None
    """Folder that holds TASK/train.tsv and TASK/dev.tsv in GLUE's layout; 'hub' fetches them."""
    train_file: str | None = None
    """Your training file: .csv, .tsv (no quoting), .jsonl or .parquet, UTF-8."""
    eval_file: str | None = None
    """Your evaluation file; none: --holdout takes a share of the training file."""
    text_columns: tuple[str, ...] = ()
    """Your text column, or two columns for pairs."""
    label_column: str = "label"
    """Your column of the label, or of the score with --regression."""
    label_names: tuple[str, ...] = ()
    """Your labels as they are spelled in the files; none: taken from the training file."""
    regression: bool = False
    """Your label is a number to predict, not a class."""
    eval_split: Literal["dev", "test"] = "dev"
    """Evaluation set, where a task has a labelled test set as well (e2e, webnlg)."""


@dataclass(frozen=True)
class Task:
    """A kind of question, its examples and its metrics.

    Attributes:
        name: as in ``--task``.
        summary: one line for lists.
        kind: classification, regression or generation.
        metrics: names in ``hiddenkey.lab.scores.metrics.METRICS``, for generation in
            ``hiddenkey.lab.scores``; the first one is the task's main one.
        needs: what a user must give: nothing (``bundled``), ``--data`` or own files.
        load: reads all examples; raises ConfigError with every fault of the data.
        files: what ``--data FOLDER`` must hold, for messages.
        otherwise: what may be given for the folder, for messages.
        family: which set of corpus metrics scores generated texts.
    """

    name: str
    summary: str
    kind: Kind
    metrics: tuple[str, ...]
    needs: Literal["bundled", "folder", "files"]
    load: Callable[[Source], Splits]
    files: str = ""
    otherwise: str = ""
    family: Literal["e2e", "webnlg", "completion"] = "e2e"

    def judged_by(self, main: str) -> Task:
        """The task with another main metric, if one is named."""
        names = dict.fromkeys((main, *self.metrics) if main else self.metrics)
        return replace(self, metrics=(*names,))
