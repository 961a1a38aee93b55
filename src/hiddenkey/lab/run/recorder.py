"""The callback that decides when a run is evaluated, times it and writes what was measured."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from transformers import TrainerCallback, TrainerControl, TrainerState

from hiddenkey.errors import DIVERGED, DivergedError
from hiddenkey.lab.run import accelerator
from hiddenkey.lab.run.checkpoints import METRICS
from hiddenkey.lab.run.folder import RunFolder
from hiddenkey.lab.run.result import best_step, evaluation_steps

if TYPE_CHECKING:
    from pathlib import Path

    from hiddenkey import Attachment

Values = Mapping[str, Any]
DEV: Final = "dev"
TRAIN: Final = "train"
_LAST_VALUE: Final = ("learning_rate",)
_LOSSES: Final = ("train_loss", "eval_loss", "train_sample_loss")
_LEFT_OUT: Final = ("epoch", "grad_norm", "total_flos")


class AlreadyTrainedError(Exception):
    """Ends a resumed training whose last step was made before."""


class Observer:
    """Is told what happens in a run; this one ignores it all."""

    def damaged(self, said: str) -> None:
        """A resumed run found something damaged; ``said`` is a sentence about it."""
        logging.getLogger(__name__).warning(said)

    def attached(self, attachment: Attachment) -> None:
        """The dropout is attached to the model, training starts next."""

    def cut(self, count: int, whole: int, length: int) -> None:
        """So many of all training examples have ``length`` tokens; what lies beyond was cut."""

    def evaluated(self, line: Mapping[str, Any]) -> None:
        """A line was added to ``metrics.jsonl``."""

    def generating(self, count: int) -> None:
        """Training is over; so many texts are generated next."""

    def generated(self, count: int) -> None:
        """So many more texts are there."""

    def scored(self, texts: Sequence[Values], scores: Values) -> None:
        """All lines of ``generations.jsonl`` are there, and what ``scores.json`` holds."""


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Evaluates and saves at evenly spread steps and keeps ``metrics.jsonl``.

    The clock runs between evaluations: steps and data loading are timed, evaluation, logging and
    saving are not.

    Attributes:
        lines: of ``metrics.jsonl``.
        seconds: wall time of all steps so far.

    Args:
        folder: of the run.
        evaluations: how many to spread over the steps.
        log_every: steps between two logged losses.
        observer: is told what happens.
        best_by: the metric whose best evaluation keeps its checkpoint; ``None``: none is kept.
    """

    def __init__(
        self,
        folder: RunFolder,
        evaluations: int,
        log_every: int | None,
        observer: Observer,
        best_by: str | None = None,
    ) -> None:
        self._folder = folder
        self._best_by = best_by
        self._observer = observer
        self._evaluations = evaluations
        self._log_every = log_every
        self._evaluation_steps: frozenset[int] = frozenset()
        self._started: float | None = None
        self.seconds = 0.0
        self._logged_step = 0
        self._logs: dict[str, list[tuple[float, int]]] = defaultdict(list)
        self._line: dict[str, Any] = {}
        self.lines: list[dict[str, Any]] = []

    def go_on_from(self, checkpoint: Path) -> None:
        """Take up the record of an interrupted run; what came after the checkpoint is forgotten."""
        self.lines = self._folder.evaluations(checkpoint)
        self.seconds = self.lines[-1]["seconds"]
        self._logged_step = self.lines[-1]["step"]
        self._folder.write_lines(METRICS, self.lines)

    @property
    def kept_step(self) -> int:
        """The step of the evaluation whose weights the run is to leave."""
        last: int = self.lines[-1]["step"]
        return last if self._best_by is None else best_step(self.lines, self._best_by)

    def add_to_last_line(self, values: Mapping[str, Any]) -> None:
        """Add to the last evaluation what was measured after the training."""
        self.lines[-1] |= values
        self._folder.write_lines(METRICS, self.lines)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Choose the steps to evaluate at.

        Raises:
            AlreadyTrainedError: if none is left to make; Trainer would make one more.
        """
        if state.global_step >= state.max_steps:
            raise AlreadyTrainedError
        self._evaluation_steps = frozenset(evaluation_steps(state.max_steps, self._evaluations))

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock if it stands."""
        if self._started is None:
            self._started = time.perf_counter()

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask for logging, evaluation and a checkpoint where they are due."""
        step = state.global_step
        evaluated = step in self._evaluation_steps
        if evaluated or (self._log_every is not None and step % self._log_every == 0):
            self._stop_clock()
            control.should_log = True
        if evaluated:
            control.should_evaluate = True
            control.should_save = True

    def on_save(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Make the checkpoint one that a resumed run can rely on."""
        self._folder.keep_checkpoint(state.global_step, self.lines, self.kept_step)

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: Values | None = None, **_: Any
    ) -> None:
        """Collect what Trainer logs between two evaluations."""
        if logs is None or "loss" not in logs:  # an evaluation, or the summary at the end
            return
        since = state.global_step - self._logged_step
        self._logged_step = state.global_step
        for name, value in logs.items():
            if isinstance(value, int | float) and name not in _LEFT_OUT:
                self._logs[name].append((float(value), since))

    def on_evaluate(
        self, args: Any, state: TrainerState, control: Any, metrics: Values | None = None, **_: Any
    ) -> None:
        """Collect the metrics of both evaluation sets, then write the line."""
        for name, value in (metrics or {}).items():
            for part, shown in ((DEV, "eval"), (TRAIN, "train_sample")):
                if name.startswith(f"eval_{part}_"):
                    self._line[name.replace(f"eval_{part}", shown, 1)] = value
        if "eval_loss" in self._line and "train_sample_loss" in self._line:
            self._write_line(state)

    def _write_line(self, state: TrainerState) -> None:
        before = self.lines[-1] if self.lines else {"step": 0, "seconds": 0.0}
        steps = state.global_step - before["step"]
        skipped = ("runtime", "samples_per_second", "steps_per_second")
        line: dict[str, Any] = {"step": state.global_step, "epoch": state.epoch}
        line |= _training_part(self._logs)
        line |= {name: value for name, value in self._line.items() if not name.endswith(skipped)}
        runtimes = (self._line.get(f"{part}_runtime", 0.0) for part in ("eval", "train_sample"))
        line["evaluation_seconds"] = sum(runtimes)
        line["seconds"] = self.seconds
        line["seconds_per_step"] = (self.seconds - before["seconds"]) / max(1, steps)
        self.lines.append(line)
        self._folder.write_lines(METRICS, self.lines)
        self._line = {}
        self._logs = defaultdict(list)
        self._observer.evaluated(line)
        _refuse_diverged(line)

    def _stop_clock(self) -> None:
        if self._started is None:
            return
        accelerator.synchronise()
        self.seconds += time.perf_counter() - self._started
        self._started = None


def _refuse_diverged(line: Values) -> None:
    for name in _LOSSES:
        if not math.isfinite(line.get(name, 0.0)):
            raise DivergedError(
                f"{DIVERGED}: {name} is {line[name]} at step {line['step']}; take a"
                " smaller learning_rate, or a longer warmup_ratio"
            )


def _training_part(logs: Mapping[str, list[tuple[float, int]]]) -> dict[str, Any]:
    """Mean over the steps since the last evaluation of what Trainer logged."""
    part: dict[str, Any] = {}
    dropped: dict[str, float] = {}
    for name, values in logs.items():
        steps = sum(count for _, count in values)
        mean = sum(value * count for value, count in values) / max(1, steps)
        if name in _LAST_VALUE:
            part[name] = values[-1][0]
        elif name == "loss":
            part["train_loss"] = mean
        elif name.startswith("dropped/"):
            dropped[name.removeprefix("dropped/")] = mean
        else:
            part[name] = mean
    if dropped:
        part["dropped"] = dropped
    return part
