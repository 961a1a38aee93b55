"""The result of a finished run, from what the recorder and Trainer know."""

from __future__ import annotations

import torch
from transformers import Trainer

from hiddenkey.lab.run.adapters import trainable_counts
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.peak_memory import peak_memory_mib
from hiddenkey.lab.run.preparation import Prepared
from hiddenkey.lab.run.recorder import Recorder
from hiddenkey.lab.run.result import Result, summarise
from hiddenkey.lab.scores import LOWER_IS_BETTER


def outcome(
    options: TrainOptions, prepared: Prepared, recorder: Recorder, trainer: Trainer
) -> Result:
    """Sum up a run whose last evaluation is recorded."""
    lines, task = recorder.lines, prepared.task
    last = lines[-1]
    sample = {name: last.get(f"train_sample_{name}") for name in ("loss", *task.metrics)}
    steps = trainer.state.global_step
    counts = trainable_counts(trainer.model)
    return Result(
        task=task.name,
        model=options.model,
        method=options.method,
        seed=options.seed,
        main_metric=task.metrics[0],
        metrics={
            name: summarise(lines, f"eval_{name}", smaller=name in LOWER_IS_BETTER)
            for name in task.metrics
        },
        eval_loss=summarise(lines, "eval_loss", smaller=True),
        train_loss=last.get("train_loss"),
        train_sample=sample,
        gap={name: _minus(value, last.get(f"eval_{name}")) for name, value in sample.items()},
        steps=steps,
        seconds_per_step=recorder.seconds / max(1, steps),
        seconds=recorder.seconds,
        trainable_parameters=counts["trainable"],
        lora_parameters=counts["adapter"],
        total_parameters=counts["total"],
        peak_memory_mib=peak_memory_mib(),
        peak_device_memory_mib=(
            torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
        ),
        data_fingerprint=prepared.data_record()["sha256"],
    )


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right
