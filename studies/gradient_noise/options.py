"""The settings of the analysis of gradient noise, and their rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hiddenkey.lab.run.options import TrainOptions

NAME: Final = "gradient-noise"
"""Of the analysis, and of its files."""

GROUPS: Final = 8
"""Groups that the masks are divided into; the jackknife leaves out one at a time."""


@dataclass(frozen=True)
class GradientNoiseOptions:
    """Noise and bias of LoRA's gradients under DropKey and DropAttention with equal masks."""

    model: str = "minilm"
    """Local folder, .gguf file, name on the Hugging Face hub, or bundled: 'minilm', 'smollm2'."""
    task: str = "headlines"
    """Any task of 'hiddenkey train'; its training examples are used."""
    data: str | None = None
    """Folder that holds TASK/train.tsv and TASK/dev.tsv in GLUE's layout."""
    train_file: str | None = None
    """Your training file for --task file: .csv, .tsv (no quoting), .jsonl or .parquet, UTF-8."""
    eval_file: str | None = None
    """Your evaluation file for --task file; it is only checked."""
    text_columns: tuple[str, ...] = ()
    """Your text column, or two columns for pairs."""
    label_column: str = "label"
    """Your column of the label."""
    train_size: int | None = None
    """Training examples, drawn with equal shares per class; none: all."""
    max_length: int = 128
    """Longest input in tokens; longer texts are cut."""

    patterns: tuple[str, ...] = ("column",)
    """Which keys fall together: column, element, span."""
    rates: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    """Dropout rates, in (0, 1)."""
    masks: int = 64
    """Masks for each batch, the same for both methods and all rates; a multiple of 8."""
    batches: int = 4
    """Batches of training examples; they stay the same throughout."""
    batch_size: int = 16
    """Examples per batch, in training as well."""

    train_steps: int = 100
    """Optimiser steps of the training run, which is plain LoRA."""
    points: tuple[float, ...] = (0.0, 0.1, 0.5, 1.0)
    """Where to look, as shares of the training steps in [0, 1]."""
    rank: int = 8
    """Rank of the LoRA matrices."""
    lora_alpha: int = 16
    """LoRA's alpha: the update is scaled by alpha / rank."""
    learning_rate: float = 1e-3
    """Largest learning rate (AdamW)."""

    seed: int = 0
    """Seed of new weights, data order, choice of the batches, and masks."""
    output: str = "runs/analysis/gradient-noise"
    """Folder of gradient-noise.json, .md and the pictures."""
    overwrite: bool = False
    """Replace an earlier analysis in that folder."""

    def training(self) -> TrainOptions:
        """The plain run that is looked into."""
        return TrainOptions(
            model=self.model,
            task=self.task,
            data=self.data,
            train_file=self.train_file,
            eval_file=self.eval_file,
            text_columns=self.text_columns,
            label_column=self.label_column,
            train_size=self.train_size,
            data_seed=self.seed,
            max_length=self.max_length,
            method="lora",
            rank=self.rank,
            lora_alpha=self.lora_alpha,
            learning_rate=self.learning_rate,
            max_steps=max(1, self.train_steps),  # find_faults refuses others under their own name
            batch_size=self.batch_size,
            seed=self.seed,
        )

    def steps(self) -> dict[int, float]:
        """The points by the step that they fall on, in order."""
        return {round(share * self.train_steps): share for share in sorted(self.points)}


def find_faults(options: GradientNoiseOptions) -> list[str]:
    """Return every broken rule of what is no setting of a training run."""
    return [
        *_pattern_faults(options),
        *_rate_faults(options),
        *_point_faults(options),
        *_size_faults(options),
        *_folder_faults(options),
    ]


def _pattern_faults(options: GradientNoiseOptions) -> list[str]:
    from hiddenkey.errors import not_one_of
    from hiddenkey.framework.patterns import PATTERNS
    from hiddenkey.framework.positions import POSITIONS

    known = [name for name in PATTERNS if name not in POSITIONS["attention_logits"].refused]
    if not options.patterns:
        return [f"patterns must hold one of {', '.join(known)}, got none; 'column' is usual"]
    return [not_one_of("patterns", name, known) for name in options.patterns if name not in known]


def _rate_faults(options: GradientNoiseOptions) -> list[str]:
    if not options.rates:
        return ["rates must hold a dropout rate, got none; 0.1 is usual"]
    return [
        f"rates must be in (0, 1), got {rate!r}; without noise there is nothing to measure"
        for rate in options.rates
        if not 0 < rate < 1
    ]


def _point_faults(options: GradientNoiseOptions) -> list[str]:
    faults = []
    if options.train_steps < 1:
        faults.append(f"train_steps must be at least 1, got {options.train_steps!r}; 100 is usual")
    outside = [share for share in options.points if not 0 <= share <= 1]
    faults += [
        f"points must be shares of the training in [0, 1], got {share!r}; 0.5 is its middle"
        for share in outside
    ]
    if not options.points:
        faults.append("points must hold a share of the training, got none; 0 is its start")
    elif options.train_steps > 0 and not outside and len(options.steps()) < len(options.points):
        faults.append(
            f"points must fall on different steps, got {list(options.points)} of"
            f" {options.train_steps} steps; leave one out or train longer"
        )
    return faults


def _size_faults(options: GradientNoiseOptions) -> list[str]:
    faults = []
    if options.masks < GROUPS or options.masks % GROUPS:
        faults.append(
            f"masks must be a multiple of {GROUPS}, got {options.masks!r}; the intervals leave out"
            " an eighth of them at a time, 64 is usual"
        )
    if options.batches < 1:
        faults.append(f"batches must be at least 1, got {options.batches!r}; 4 is usual")
    return faults


def _folder_faults(options: GradientNoiseOptions) -> Iterator[str]:
    folder = Path(options.output)
    if folder.exists() and not folder.is_dir():
        yield f"output must be a folder, got file {options.output!r}; name another"
    elif (folder / f"{NAME}.json").exists() and not options.overwrite:
        yield (
            f"output must not hold an analysis, {options.output!r} holds one; replace it with"
            " --overwrite or name another folder"
        )
