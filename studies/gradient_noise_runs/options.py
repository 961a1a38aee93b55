"""The settings of the study of gradient noise over several training runs."""

from __future__ import annotations

from dataclasses import dataclass

from gradient_noise.options import GradientNoiseOptions
from hiddenkey.lab.run.limits import Limit
from hiddenkey.lab.tasks import TASKS

_SEEDS = Limit("at least 3", lambda value: value >= 3, "fewer have no interval")


@dataclass(frozen=True)
class NoiseRunsOptions:
    """Gradient noise under DropKey and DropAttention over tasks, models and seeds."""

    tasks: tuple[str, ...] = ("headlines", "sst2")
    """Tasks of 'hiddenkey train'; their training examples are used."""
    models: tuple[str, ...] = ("minilm", "mpnet")
    """Local folders, names on the Hugging Face hub, or bundled models."""
    seeds: int = _SEEDS.default(5)
    """Training runs of each task and model; a seed draws examples, weights, batches and masks."""
    data: str | None = None
    """Folder of the tasks that are read from one, such as sst2."""
    train_size: int = 300
    """Training examples of a run."""
    max_length: int = 128
    """Longest input in tokens; longer texts are cut."""

    points: tuple[float, ...] = (0.1, 0.5, 1.0)
    """Where to look, as shares of the training steps in [0, 1]; before the first step a LoRA matrix
    is zero."""
    rate: float = 0.1
    """Dropout rate, in (0, 1)."""
    pattern: str = "column"
    """Which keys fall together: column, element, span."""
    masks: int = 64
    """Masks for each batch, the same for both methods; a multiple of 8."""
    batches: int = 4
    """Batches of training examples; they stay the same throughout a run."""
    batch_size: int = 16
    """Examples per batch, in training as well."""
    train_steps: int = 100
    """Optimiser steps of a training run, which is plain LoRA."""
    learning_rate: float = 1e-3
    """Largest learning rate (AdamW)."""

    output: str = "runs/studies/gradient_noise_runs"
    """Folder of the runs, the table and the page; a study in it goes on."""
    dry_run: bool = False
    """Say how many runs there are and how long they take, and measure nothing."""

    def single(self, task: str, model: str, seed: int) -> GradientNoiseOptions:
        """One training run, as the study of gradient noise takes it."""
        known = TASKS.get(task)
        return GradientNoiseOptions(
            model=model,
            task=task,
            data=self.data if known is not None and known.needs == "folder" else None,
            train_size=self.train_size,
            max_length=self.max_length,
            patterns=(self.pattern,),
            rates=(self.rate,),
            masks=self.masks,
            batches=self.batches,
            batch_size=self.batch_size,
            train_steps=self.train_steps,
            points=self.points,
            learning_rate=self.learning_rate,
            seed=seed,
            output=self.output,
        )
