"""What one run found, in a form that is stored and compared."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from hiddenkey.errors import DIVERGED
from hiddenkey.lab.run.stored import build
from hiddenkey.lab.scores import LOWER_IS_BETTER, lower_is_better
from hiddenkey.memory import peak_resident_mib

if TYPE_CHECKING:
    from transformers import Trainer

    from hiddenkey.lab.run.options import TrainOptions
    from hiddenkey.lab.run.preparation import Prepared
    from hiddenkey.lab.run.recorder import Recorder

PROBABILITY_MEASURES: Final = (
    "ece", "brier", "loss_after_temperature", "ece_after_temperature", "brier_after_temperature",
)  # fmt: skip
"""What is measured of a classifier's probabilities beside the loss; better when smaller."""

Worth = Literal["best", "last", "loss"]
"""What settings are chosen by: the main metric, best or last, or the last evaluation loss."""

_TIE: Final = 1e-6
"""Weight of the loss beside a metric: it only decides between equal ones."""


@dataclass(frozen=True)
class Summary:
    """One measured value over a run.

    Attributes:
        best: the largest value over the evaluations, for a loss the smallest.
        best_step: the step of the first evaluation that had it.
        last: the value of the last evaluation.
    """

    best: float | None
    best_step: int
    last: float | None


@dataclass(frozen=True)
class Result:
    """The outcome of a run; steps, times and counts are 0 where nobody measured them.

    Attributes:
        task: name of the task.
        model: as it was named in the options.
        method: name of the method.
        seed: the training seed.
        main_metric: the task's first metric.
        metrics: each metric on the evaluation examples; better when larger, but for TER, losses
            and what was declared to be better when smaller.
        eval_loss: task loss on the evaluation examples.
        train_loss: mean training loss since the evaluation before the last, with dropout and the
            consistency loss, as the optimiser saw it.
        train_sample: loss and metrics on a fixed sample of the training examples, in evaluation
            mode (no dropout), at the last evaluation.
        gap: ``train_sample`` minus the same on the evaluation examples, at the last evaluation.
        steps: optimiser steps.
        seconds_per_step: wall time per step; evaluation and saving are not counted.
        seconds: wall time of all steps.
        trainable_parameters: the adapter's and the head's, or all in full fine-tuning.
        lora_parameters: the adapter's alone, whichever it is; 0 in full fine-tuning.
        total_parameters: all, frozen ones included.
        peak_memory_mib: largest resident memory of the process so far, in MiB, or ``None`` where
            the operating system does not say.
        peak_device_memory_mib: largest memory allocated on the accelerator, in MiB, or ``None``.
        data_fingerprint: hash of the examples.
        train_examples: number of training examples, ``None`` in files of earlier versions.
        eval_examples: number of evaluation examples, likewise.
        calibration: of a classifier on the evaluation examples at the end, by the names of
            :data:`PROBABILITY_MEASURES`; empty in files of earlier versions.
    """

    task: str
    model: str
    method: str
    seed: int
    main_metric: str
    metrics: Mapping[str, Summary]
    eval_loss: Summary
    train_loss: float | None
    train_sample: Mapping[str, float | None]
    gap: Mapping[str, float | None]
    steps: int
    seconds_per_step: float
    seconds: float
    trainable_parameters: int
    lora_parameters: int
    total_parameters: int
    peak_memory_mib: float | None
    peak_device_memory_mib: float | None
    data_fingerprint: str
    train_examples: int | None = None
    eval_examples: int | None = None
    calibration: Mapping[str, float | None] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Result:
        """Build a result from :meth:`to_dict`'s form.

        Raises:
            ValueError: if it is not of that form.
        """
        found: Result = build(cls, values)
        if found.main_metric not in found.metrics:
            raise ValueError(f"metrics must hold the main metric {found.main_metric!r}")
        return found

    def worth(self, by: Worth, *, lower: bool = False) -> float | None:
        """Return what the run is worth to a search: the more, the better.

        Of equal metrics after the last step the loss decides.

        Args:
            by: what counts.
            lower: the run says that smaller values of its main metric are better.
        """
        main, loss = self.metrics[self.main_metric], self.eval_loss.last
        found = {"best": main.best, "last": main.last, "loss": loss}[by]
        if found is None:
            return None
        smaller = lower or by == "loss" or lower_is_better(self.main_metric)
        tie = _TIE * loss if by == "last" and loss is not None else 0.0
        return (-found if smaller else found) - tie

    @property
    def diverged(self) -> str | None:
        """Say that the loss was no finite number at the end; ``None`` if it was one."""
        if self.eval_loss.last is not None and math.isfinite(self.eval_loss.last):
            return None
        return f"{DIVERGED}: the evaluation loss at step {self.steps} is no finite number"

    @classmethod
    def load(cls, folder: Path) -> Result:
        """Read ``result.json`` of a run folder."""
        return cls.from_dict(json.loads((folder / "result.json").read_text(encoding="utf-8")))


def evaluation_steps(steps: int, evaluations: int) -> list[int]:
    """Return the steps after which to evaluate: evenly spread, the last step among them."""
    count = min(evaluations, steps)
    return [round(steps * number / count) for number in range(1, count + 1)]


def summarise(lines: Sequence[Mapping[str, Any]], name: str, *, smaller: bool = False) -> Summary:
    """Summarise one value over the lines of ``metrics.jsonl``; missing values are passed over."""
    measured = [(line[name], line["step"]) for line in lines if line.get(name) is not None]
    last = lines[-1].get(name)
    if not measured:
        return Summary(best=None, best_step=int(lines[-1]["step"]), last=None)
    sign = 1 if smaller else -1
    best, step = min(measured, key=lambda pair: (sign * pair[0], pair[1]))
    return Summary(best=best, best_step=int(step), last=last)


def best_step(lines: Sequence[Mapping[str, Any]], metric: str) -> int:
    """Return the step of the best evaluation by a metric; the loss decides between equal ones.

    Where no evaluation has the metric, the loss decides alone.
    """
    name, sign = f"eval_{metric}", 1 if metric in LOWER_IS_BETTER else -1
    measured = [line for line in lines if line.get(name) is not None] or lines
    best = min(measured, key=lambda line: (sign * (line.get(name) or 0.0), line["eval_loss"]))
    return int(best["step"])


def sum_up(
    options: TrainOptions, prepared: Prepared, recorder: Recorder, trainer: Trainer
) -> Result:
    """Return the result of a run whose last evaluation is recorded."""
    import torch

    from hiddenkey.lab.run.adapters import trainable_counts

    lines, task = recorder.lines, prepared.task
    last = lines[-1]
    sample = {name: last.get(f"train_sample_{name}") for name in ("loss", *task.metrics)}
    steps = trainer.state.global_step
    counts = trainable_counts(trainer.model)
    on_device = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
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
        peak_memory_mib=peak_resident_mib(),
        peak_device_memory_mib=on_device,
        data_fingerprint=prepared.splits.fingerprint(),
        train_examples=len(prepared.splits.train),
        eval_examples=len(prepared.splits.evaluation),
        calibration={n: last[f"eval_{n}"] for n in PROBABILITY_MEASURES if f"eval_{n}" in last},
    )


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right
