"""The trained weights at several points of one plain run, and batches that stay the same."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

import hiddenkey
from hiddenkey.lab.run.building import build_model, build_trainer
from hiddenkey.lab.run.encoding import collator, encode
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import Prepared
from hiddenkey.lab.tasks.sampling import draw

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class TrainedModel:
    """A model after its training run, and what its weights were on the way.

    Attributes:
        model: with the weights of the last step.
        tokenizer: its tokenizer.
        weights: trained weights by name, by the step after which they were so; 0 is the start.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    weights: Mapping[int, Mapping[str, Tensor]]

    @torch.no_grad()
    def go_to(self, step: int) -> None:
        """Give the model the weights that it had after ``step``."""
        parameters = dict(self.model.named_parameters())
        for name, value in self.weights[step].items():
            parameters[name].copy_(value)


def train_through(
    options: TrainOptions, prepared: Prepared, steps: Collection[int]
) -> TrainedModel:
    """Train as ``hiddenkey train`` would, without evaluations, and keep the weights after steps."""
    model, tokenizer = build_model(options, prepared)
    keeper = _Keeper(model, steps)
    with (
        hiddenkey.attach(model, prepared.config),
        tempfile.TemporaryDirectory() as folder,
    ):
        trainer = build_trainer(options, prepared, model, tokenizer, Path(folder))
        trainer.add_callback(keeper)
        trainer.train()
    return TrainedModel(model, tokenizer, keeper.weights)


def fixed_batches(
    options: TrainOptions, prepared: Prepared, tokenizer: PreTrainedTokenizerBase, count: int
) -> list[Batch]:
    """Draw batches of training examples; no example is in two of them."""
    kind = prepared.task.kind
    chosen = list(draw(prepared.splits.train, count * options.batch_size, options.seed, kind))
    random.Random(options.seed).shuffle(chosen)  # drawn examples stand in their original order
    rows = encode(chosen, tokenizer, options.max_length, kind)
    build = collator(tokenizer, kind)
    return [dict(build(rows[start::count])) for start in range(count)]


class _Keeper(TrainerCallback):  # type: ignore[misc]
    """Copies the trained weights after the given steps."""

    def __init__(self, model: nn.Module, steps: Collection[int]) -> None:
        self._model = model
        self._steps = steps
        self.weights: dict[int, dict[str, Tensor]] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Copy the weights of the start."""
        self._keep(0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Copy the weights of a step."""
        self._keep(state.global_step)

    def _keep(self, step: int) -> None:
        if step in self._steps:
            self.weights[step] = dict(_trained(self._model))


def _trained(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter.detach().clone()
