"""Seconds of training steps of two configurations that take turns in one process.

A machine's load changes from minute to minute, and hits two steps that follow each other alike. The
ratio of such a pair says what a method costs where the times of whole runs would not.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Final

import torch
from transformers import set_seed

import hiddenkey
from hiddenkey.lab.run import accelerator
from hiddenkey.lab.run.building import build_model, build_trainer
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import Prepared
from hiddenkey.lab.run.used import means
from hiddenkey.step.averaging import WeightAverage

WARM_UP: Final = 3
"""Steps of each that are not counted."""
ROUNDS: Final = 10

Timed = tuple[TrainOptions, Prepared]


def times_in_turns(ours: Timed, baseline: Timed, rounds: int = ROUNDS) -> list[tuple[float, float]]:
    """Return the seconds of a step of ours and of the baseline's, a pair for each round.

    Both models are in memory at the same time. Who begins a round changes with each.

    Args:
        ours: settings, and what was prepared for them.
        baseline: the same of what it is compared with.
        rounds: pairs to time.
    """
    pairs = []
    with ExitStack() as stack:
        take_ours, take_baseline = (
            stack.enter_context(_steps(*each, WARM_UP + rounds)) for each in (ours, baseline)
        )
        for number in range(WARM_UP + rounds):
            if number % 2:
                second, first = take_baseline(), take_ours()
            else:
                first, second = take_ours(), take_baseline()
            pairs.append((first, second))
    return pairs[WARM_UP:]


@contextmanager
def _steps(options: TrainOptions, prepared: Prepared, count: int) -> Iterator[Callable[[], float]]:
    """Yield a function that takes one step as Trainer does, and returns its seconds."""
    model, tokenizer = build_model(options, prepared)
    with (
        tempfile.TemporaryDirectory(prefix="hiddenkey-steps-") as folder,
        hiddenkey.attach(model, prepared.config, kernel=options.kernel),
    ):
        trainer = build_trainer(options, prepared, model, tokenizer, Path(folder))
        trainer.create_optimizer_and_scheduler(count)
        # As Trainer's own loop does: autocast for bfloat16, and the number that its step divides by
        model = trainer.accelerator.prepare_model(model)
        trainer.current_gradient_accumulation_steps = options.gradient_accumulation
        set_seed(options.seed)  # equal seeds give equal batches
        # The same few all the time: a loss that remembers has seen each when it is timed.
        batches = cycle(
            islice(trainer.get_train_dataloader(), WARM_UP * options.gradient_accumulation)
        )
        model.train()
        averages = [WeightAverage(model, replace(rule, part=1)) for rule in means(options)]

        def take() -> float:
            step = list(islice(batches, options.gradient_accumulation))
            accelerator.synchronise()
            started = time.perf_counter()
            for batch in step:
                trainer.training_step(model, batch)
            torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
            trainer.optimizer.step()
            for average in averages:
                average.update()
            model.zero_grad()
            accelerator.synchronise()
            return time.perf_counter() - started

        yield take
