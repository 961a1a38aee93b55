"""The settings of the study of tasks in sequence."""

from __future__ import annotations

from dataclasses import dataclass

from hiddenkey.lab.run.limits import ABOVE_ZERO, ONE, Limit

_SEEDS = Limit("at least 3", lambda value: value >= 3, "fewer have no interval")


@dataclass(frozen=True)
class ContinualOptions:
    """Accuracy and forgetting of one adapter that learns tasks one after another."""

    tasks: tuple[str, ...] = ("headlines", "trec", "subj")
    """Classification tasks of 'hiddenkey train', in the order in which they are learnt."""
    data: str | None = None
    """Folder of the tasks that are read from one."""
    model: str = "minilm"
    """Local folder, name on the Hugging Face hub, or a bundled model."""
    methods: tuple[str, ...] = ("lora", "hiddenkey-minus", "hiddenkey", "temporal")
    """Methods to compare; the first is the baseline."""
    rate: float | None = None
    """Dropout rate of all methods that drop; none: the methods' own."""
    seeds: int = _SEEDS.default(6)
    """Seeds of examples, new weights and data order, the same for each method."""

    train_size: int = ONE.default(300)
    """Training examples of each task."""
    eval_size: int = ONE.default(300)
    """Evaluation examples of each task, the same for every seed."""
    steps: int = ONE.default(100)
    """Optimiser steps on each task."""
    batch_size: int = ONE.default(16)
    """Examples in a batch."""
    learning_rate: float = ABOVE_ZERO.default(1e-3, "1e-3 is usual for LoRA")
    """Largest learning rate (AdamW); it goes down to 0 within each task."""
    rank: int = ONE.default(8)
    """Rank of the LoRA matrices."""
    max_length: int = ONE.default(64)
    """Longest input in tokens; longer texts are cut."""

    output: str = "runs/studies/continual"
    """Folder of the runs, the table and the page; a study in it goes on."""
    dry_run: bool = False
    """Say how many runs there are and how long they take, and train nothing."""
