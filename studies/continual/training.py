"""One adapter that learns the tasks one after another, evaluated on all of them after each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup, set_seed

import hiddenkey
from continual.curriculum import Curriculum, Stage
from continual.options import ContinualOptions
from hiddenkey.lab.run.adapters import add_adapter
from hiddenkey.lab.run.encoding import collator, encode
from hiddenkey.lab.run.models import load_model
from hiddenkey.lab.run.options import TrainOptions

_WARM_UP = 0.06  # of a task's steps
_EVALUATED = 64  # examples at once


def learn(
    options: ContinualOptions, curriculum: Curriculum, method: str, seed: int
) -> list[list[float]]:
    """Train one adapter through the sequence.

    The head has the classes of all tasks from the beginning, and the model's own loss is over all
    of them. An optimiser lasts for one task. The attachment lasts for the whole sequence.

    Returns:
        Accuracy ``[after task, on task]``, each task's examples among its own classes, without
        noise. Tasks that come later are evaluated too.
    """
    set_seed(seed)
    model, tokenizer = load_model(
        options.model, "classification", curriculum.label_names, "float32"
    )
    adapted = add_adapter(model, TrainOptions(rank=options.rank))
    encoded = {
        stage.name: [
            encode(part, tokenizer, options.max_length, "classification")
            for part in (stage.train, stage.evaluation)
        ]
        for stage in curriculum.stages
    }
    collate, found = collator(tokenizer, "classification"), []
    with hiddenkey.attach(adapted, hiddenkey.method(method, rate_of(method, options))):
        for number, stage in enumerate(curriculum.stages):
            rows = encoded[stage.name][0]
            order = batches(len(rows), options.batch_size, options.steps, seed * 1000 + number)
            _train(adapted, (collate([rows[i] for i in chosen]) for chosen in order), options)
            found.append(
                [accuracy(adapted, encoded[s.name][1], collate, s) for s in curriculum.stages]
            )
    return found


def rate_of(method: str, options: ContinualOptions) -> float | None:
    """The rate that a method is given: none where it drops nothing."""
    return options.rate if hiddenkey.method(method).drops else None


def batches(count: int, size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Yield numbers of examples, each once before any comes again; no noise moves them."""
    generator = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    for _ in range(steps):
        while len(waiting) < size:
            waiting += torch.randperm(count, generator=generator).tolist()
        yield waiting[:size]
        waiting = waiting[size:]


def _train(model: nn.Module, given: Iterator[Mapping[str, Any]], options: ContinualOptions) -> None:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=0.0)
    warm_up = round(_WARM_UP * options.steps)
    schedule = get_linear_schedule_with_warmup(optimiser, warm_up, options.steps)
    model.train()
    for batch in given:
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, rows: Sequence[Any], collate: Any, stage: Stage) -> float:
    """Share of a task's examples that are right among the task's own classes, without noise."""
    model.eval()
    start, end = stage.classes
    right = 0
    for first in range(0, len(rows), _EVALUATED):
        batch = dict(collate(rows[first : first + _EVALUATED]))
        labels = batch.pop("labels")
        chosen = model(**batch).logits[:, start:end].argmax(-1) + start
        right += int((chosen == labels).sum())
    return right / len(rows)
